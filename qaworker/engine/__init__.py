"""Chunks in, outcomes out: one event loop, one semaphore, and the ladder of failures."""
