"""Question/answer pairs from datasets, generated on Celery workers."""
