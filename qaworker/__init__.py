"""Question/answer pairs from datasets, generated on Celery workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qaworker.client.collecting import collect_results, submit_parallel_qa_generation

__all__ = ["collect_results", "submit_parallel_qa_generation"]


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: commands that need none start at once."""
    if name in __all__:
        from qaworker.client import collecting

        return getattr(collecting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
