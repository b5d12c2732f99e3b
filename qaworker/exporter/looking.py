"""One look at Redis: everything the exporter shows, read at one moment and asked of no worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

from redis import Redis

from qaworker.errors import StoreUnavailable
from qaworker.limits.states import LimiterState, limiter_states
from qaworker.store import fleet, heartbeats, overview
from qaworker.store.counters import Counted, counted
from qaworker.store.dead_letters import DeadLetters
from qaworker.store.heartbeats import Seen
from qaworker.store.holds import Hold, holds
from qaworker.store.overview import Queue


@dataclass(frozen=True, slots=True)
class Picture:
    """What one look found."""

    queues: Sequence[Queue]
    dead_letters: int
    workers: Sequence[Seen]
    """Of the last day, but for those that said goodbye."""
    expected_workers: Mapping[str, int]
    """That are to run, by host."""
    holds: Sequence[Hold]
    limiters: Sequence[LimiterState]
    counted: Counted


# Prometheus waits ten seconds by default, and one answer may come as late as its connection allows.
LONGEST_S: Final = 5.0

T = TypeVar("T")


class Looking:
    """Looks at Redis whenever it is asked to; any thread may ask."""

    def __init__(
        self,
        redis: Redis,
        broker: Redis,
        *,
        keep: timedelta,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look through connections that give up soon.

        Args:
            redis: where everything is but the queues.
            broker: where the queues are.
            keep: for how long dead letters are kept.
            clock: seconds; for how long a look takes.
        """
        self._redis = redis
        self._broker = broker
        self._keep = keep
        self._clock = clock

    def __call__(self) -> Picture:
        """What there is now, all of it.

        Raises:
            StoreUnavailable: one of the two does not answer in time, or holds what cannot be read.
        """
        ends_at_s = self._clock() + LONGEST_S

        def in_time(ask: Callable[[], T]) -> T:
            if self._clock() > ends_at_s:
                raise StoreUnavailable(
                    f"Redis did not answer everything within {LONGEST_S:.0f} s: see what keeps it busy"
                )
            return ask()

        try:
            return Picture(
                queues=in_time(self._queues),
                dead_letters=in_time(lambda: DeadLetters(self._redis).count(self._keep)),
                workers=in_time(lambda: heartbeats.seen(self._redis)),
                expected_workers=in_time(lambda: fleet.expected(self._redis)),
                holds=in_time(lambda: holds(self._redis)),
                limiters=in_time(lambda: limiter_states(self._redis)),
                counted=in_time(lambda: counted(self._redis)),
            )
        except (KeyError, ValueError) as error:
            raise StoreUnavailable(
                f"Redis holds what this version cannot read ({type(error).__name__})"
            ) from error

    def _queues(self) -> Sequence[Queue]:
        try:
            return overview.queues(self._broker)
        except StoreUnavailable as error:
            if self._broker is self._redis:
                raise
            raise StoreUnavailable(
                f"the queues' Redis does not answer ({error.__cause__}): start it, or correct"
                " CELERY_BROKER_URL"
            ) from error
