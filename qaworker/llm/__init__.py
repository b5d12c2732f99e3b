"""The only place that speaks to the provider: prompts, schema, calls, and their faults."""
