"""An OpenAI-compatible server for demonstrations, tests and drills; it is no language model."""
