"""The side that has the dataset: sends chunks, collects outcomes, and sends again what got lost."""
