"""Counts what the simulator served, so that tests and benchmarks can hold it against the client."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class Stats:
    """Counters since the start or the last reset; times are those of ``clock``, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._in_flight = 0
        self.reset()

    def reset(self) -> None:
        """Start all counts anew; what is in flight stays so."""
        self.requests = 0
        self.charged = 0
        self.abandoned = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.answers: Counter[int] = Counter()
        self.faults: Counter[str] = Counter()
        self._chunks: Counter[bytes] = Counter()
        self._since = self._changed = self._clock()
        self._in_flight_seconds = 0.0
        self._peak = self._in_flight

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """A call is in flight inside this context."""
        self._change(1)
        try:
            yield
        finally:
            self._change(-1)

    def charge(self, texts: Iterable[str]) -> None:
        """Generation begins for the chunks with these texts."""
        self.charged += 1
        for text in texts:
            self._chunks[hashlib.blake2b(text.encode(), digest_size=8).digest()] += 1

    def snapshot(self) -> dict[str, Any]:
        """Everything counted, for JSON.

        Rates over a part of a run are differences of two snapshots: of ``calls``, or of
        ``in_flight_seconds``, over that of ``window_s``.
        """
        self._change(0)
        window_s = self._changed - self._since
        return {
            "requests": self.requests,
            "calls": self.answers[200],
            "charged": self.charged,
            "abandoned": self.abandoned,
            "distinct_chunks": len(self._chunks),
            "max_calls_per_chunk": max(self._chunks.values(), default=0),
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens},
            "in_flight": self._in_flight,
            "in_flight_mean": self._in_flight_seconds / window_s if window_s else self._in_flight,
            "in_flight_peak": self._peak,
            "in_flight_seconds": self._in_flight_seconds,
            "answers": {str(status): count for status, count in sorted(self.answers.items())},
            "faults": dict(sorted(self.faults.items())),
            "window_s": window_s,
            "uptime_s": self._changed - self._started,
        }

    def _change(self, by: int) -> None:
        now = self._clock()
        self._in_flight_seconds += self._in_flight * (now - self._changed)
        self._changed = now
        self._in_flight += by
        self._peak = max(self._peak, self._in_flight)
