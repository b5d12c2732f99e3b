"""What a process counts: messages that begin, calls that end and how long they waited, their cost.

Nothing here takes a round trip of its own; :mod:`qaworker.engine.recorder` hands it over with the
outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from qaworker import keys
from qaworker.errors import CallError, ConfigError
from qaworker.llm.prices import Price, cost_micros
from qaworker.models import Usage
from qaworker.store import counters
from qaworker.store.counters import Counts


class Meter:
    """The counts of one process; belongs to one event loop."""

    def __init__(self, counts: Counts, price: Callable[[str], Price]) -> None:
        """Begin with nothing new.

        Args:
            counts: what is handed over.
            price: of a model, or ConfigError, for which nothing is added to the cost.
        """
        self._counts = counts
        self._price = price

    def message_began(self, queue: str, waited_s: float | None, *, is_redelivered: bool) -> None:
        """A message came; how long after it was sent, where it says so."""
        if is_redelivered:
            self._counts.add(counters.REDELIVERIES)
        elif waited_s is not None and queue in keys.QUEUES:
            self._counts.observe(counters.TASK_WAIT, max(0.0, waited_s), queue)

    def call_began(self, model: str, waited_s: float, failed_before: str) -> None:
        """A call was let through after ``waited_s``; why it was made before, unless it was not."""
        self._counts.observe(counters.LIMITER_WAIT, waited_s, model)
        if failed_before:
            self._counts.add(counters.RETRIES, failed_before)

    def answered(self, model: str, took_s: float, usage: Usage) -> None:
        """A call ended with a usable answer."""
        self._ended(model, took_s, "ok", usage)

    def failed(self, model: str, took_s: float, error: CallError) -> None:
        """A call ended without one."""
        self._counts.add(counters.FAILURES, error.reason)
        self._ended(model, took_s, error.reason, error.usage or Usage())

    def _ended(self, model: str, took_s: float, status: str, usage: Usage) -> None:
        self._counts.add(counters.REQUESTS, status, model)
        self._counts.observe(counters.CALL, took_s, model)
        for kind, tokens in (
            ("input", usage.input),
            ("cached_input", usage.cached),
            ("output", usage.output),
            ("reasoning", usage.reasoning),
        ):
            if tokens:
                self._counts.add(counters.TOKENS, kind, model, by=tokens)
        # Asked each time, as a price may be added while the process runs.
        with suppress(ConfigError):
            micros = cost_micros(usage, self._price(model))
            if micros:
                self._counts.add(counters.MICRO_DOLLARS, model, by=micros)
