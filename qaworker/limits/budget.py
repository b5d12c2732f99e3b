"""The budget of a run, shared by all workers: nothing is called for that it does not cover.

Before a call, what it can cost at most is reserved; after it, the reservation is settled with what
it cost, and the rest is free again. A reservation that nobody settles (its worker died) is charged
in full, as its call may have been answered. So at the end no more is spent than the budget, provided
that no call costs more than was reserved for it.

Amounts are whole micro-dollars. A run without a budget asks for none of this; whether it has one,
workers learn with each claim.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import resources
from itertools import count
from typing import Any, Final

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys
from qaworker.redis_errors import store_errors

# Longer than a call. Open or charged, a reservation keeps others out; but only once it is charged
# nobody waits any more for what may be free of it.
OPEN_FOR: Final = timedelta(minutes=10)
_LEAVE: Final = -1


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands."""

    budget_micros: int | None
    """None where no budget is set, or Redis has lost it: nothing is granted until it is opened."""
    spent_micros: int
    reserved_micros: int
    """For calls under way."""
    is_cancelled: bool = False
    """Whether the run was cancelled since a command of its own opened the budget."""

    @property
    def free_micros(self) -> int:
        """What may be reserved now."""
        return (self.budget_micros or 0) - self.spent_micros - self.reserved_micros

    def covers(self, micros: int) -> bool:
        """Whether so much would fit if all calls under way were free.

        What was refused and fits here may be granted later; what does not never will be, unless the
        budget is raised.
        """
        return self.budget_micros is not None and self.spent_micros + micros <= self.budget_micros


@dataclass(frozen=True, slots=True)
class Granted:
    """What became of the reservations asked for."""

    reservations: int
    """So many, the first ones: each is to be settled, once."""
    state: State


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a reserved call really cost."""

    reservation: str
    micros: int


class Budgets:
    """What an engine does with budgets; every method raises StoreUnavailable."""

    def __init__(
        self, redis: AsyncRedis, *, keep: timedelta, open_for: timedelta = OPEN_FOR
    ) -> None:
        """Prepare for the runs of this process.

        Args:
            redis: that all workers use.
            keep: how long a budget outlives its last call.
            open_for: a reservation that was not settled by then is charged in full.
        """
        self._script = redis.register_script(_source())
        self._spans = (keep, open_for)
        # No other process, and no later one, makes the same reservations.
        self._name = secrets.token_hex(6)
        self._numbers = count(1)

    def reservation(self, micros: int) -> str:
        """A reservation to ask for: the same one again where the answer got lost."""
        return f"{self._name}-{next(self._numbers)}:{micros}"

    async def reserve(
        self, run_id: str, asked: Sequence[str], settled: Sequence[Settlement] = ()
    ) -> Granted:
        """Reserve what calls can cost at most, in their order, after settling earlier ones.

        The first that the budget does not cover is refused, with all after it.
        """
        state, granted = await self._exchange(run_id, settled, asked)
        return Granted(granted, state)

    async def settle(self, run_id: str, settled: Sequence[Settlement]) -> State:
        """Charge what calls cost and free the rest; it may be said twice."""
        state, _ = await self._exchange(run_id, settled, ())
        return state

    async def _exchange(
        self, run_id: str, settled: Sequence[Settlement], asked: Sequence[str]
    ) -> tuple[State, int]:
        arguments = _arguments(self._spans, settled=settled, asked=asked)
        with store_errors():
            return _parsed(await self._script(keys=_keys(run_id), args=arguments))


def open_budget(
    redis: Redis, run_id: str, budget_micros: int, *, spent_micros: int, keep: timedelta
) -> State:
    """Set the budget of a run; below what is spent and reserved, it grants nothing.

    Args:
        redis: that the workers use.
        run_id: the run.
        budget_micros: for all of the run, from its beginning.
        spent_micros: what its ledger knows it has spent: counts where Redis has lost the rest.
        keep: how long the budget outlives its last call.

    Raises:
        StoreUnavailable: Redis is away.
    """
    arguments = _arguments((keep, OPEN_FOR), budget_micros=budget_micros, spent_micros=spent_micros)
    with store_errors():
        state, _ = _parsed(redis.register_script(_source())(keys=_keys(run_id), args=arguments))
    return state


def state(redis: Redis, run_id: str) -> State:
    """Where a run stands; raises as :func:`open_budget`."""
    names = ("budget", "spent", "reserved")
    with store_errors():
        budget, spent, reserved = redis.hmget(keys.budget(run_id), names)
    return State(None if budget is None else int(budget), int(spent or 0), int(reserved or 0))


@cache
def _source() -> str:
    return resources.files(__package__).joinpath("budget.lua").read_text(encoding="utf-8")


def _keys(run_id: str) -> list[str]:
    return [
        keys.budget(run_id),
        keys.budget_reservations(run_id),
        keys.budget_charged(run_id),
        keys.cancelled(run_id),
        keys.cancelled(None),
    ]


def _arguments(
    spans: tuple[timedelta, timedelta],
    *,
    budget_micros: int = _LEAVE,
    spent_micros: int = 0,
    settled: Sequence[Settlement] = (),
    asked: Iterable[str] = (),
) -> list[str | int]:
    """As the script lists them; ``spans``: how long the keys are kept, and a reservation is open."""
    keep_s, open_s = (int(span.total_seconds()) for span in spans)
    arguments: list[str | int] = [budget_micros, spent_micros, open_s, keep_s, len(settled)]
    for one in settled:
        arguments += [one.reservation, one.micros]
    return [*arguments, *asked]


def _parsed(answer: Any) -> tuple[State, int]:
    budget, spent, reserved, granted, is_cancelled = answer
    found = State(None if budget == _LEAVE else budget, spent, reserved, bool(is_cancelled))
    return found, granted
