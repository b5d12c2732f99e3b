"""One look at Redis: everything the exporter shows, read at one moment and asked of no worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

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
    expected_workers: int
    """On all hosts."""
    holds: Sequence[Hold]
    limiters: Sequence[LimiterState]
    counted: Counted


class Looking:
    """Looks at Redis whenever it is asked to; any thread may ask."""

    def __init__(self, redis: Redis, broker: Redis, *, keep: timedelta) -> None:
        """Look through connections that give up soon.

        Args:
            redis: where everything is but the queues.
            broker: where the queues are.
            keep: for how long dead letters are kept.
        """
        self._redis = redis
        self._broker = broker
        self._keep = keep

    def __call__(self) -> Picture:
        """What there is now, all of it.

        Raises:
            StoreUnavailable: one of the two does not answer, or holds what cannot be read.
        """
        try:
            return Picture(
                queues=self._queues(),
                dead_letters=DeadLetters(self._redis).count(self._keep),
                workers=heartbeats.seen(self._redis),
                expected_workers=sum(fleet.expected(self._redis).values()),
                holds=holds(self._redis),
                limiters=limiter_states(self._redis),
                counted=counted(self._redis),
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
