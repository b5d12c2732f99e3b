"""A simulated OpenAI API: answers formed by rule, limits and faults on demand.

It is no language model. It stands apart: nothing of qaworker is imported here but ``logs``.
"""
