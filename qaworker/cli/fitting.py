"""Whether what is left of a run fits in a budget, which is for all of it, from its beginning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from redis import Redis

from qaworker.client.planning import Plan
from qaworker.limits.budget import state
from qaworker.llm.prices import Price, cost_micros, dollars
from qaworker.store.looking import Seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a run has taken of its budget."""

    micros: int = 0
    reserved_micros: int = 0
    """By calls under way, or by a process that died and nobody charged for yet."""
    is_doubtful: bool = False
    """Whether only its ledger was asked: outcomes and calls that it does not know of may cost more."""

    @property
    def taken_micros(self) -> int:
        """What a budget must cover before anything else."""
        return self.micros + self.reserved_micros


NOTHING: Final = Spent()
"""Of a run that has yet to begin, or whose model has no price."""


def spent_of(seen: Seen | None, redis: Redis | None, price: Price | None) -> Spent:
    """What a run has spent, by its ledger or by Redis, whichever knows of more.

    Args:
        seen: its ledger; None where there is none yet.
        redis: that its workers use; None while it is away.
        price: of its model; None where nobody knows it.

    Raises:
        StoreUnavailable: ``redis`` does not answer.
    """
    if seen is None or price is None:
        return NOTHING
    recorded = cost_micros(seen.usage, price)
    if redis is None:
        return Spent(micros=recorded, is_doubtful=True)
    now = state(redis, seen.run_id)
    return Spent(
        micros=max(recorded, now.spent_micros),
        reserved_micros=now.reserved_micros,
    )


def verdict(plan: Plan, budget: int, spent: Spent) -> str:
    """What becomes of the run with this budget, in micro-dollars, for a person."""
    free = budget - spent.taken_micros
    if free < 0:
        judged = "refused, as it is less than that"
    elif free >= (plan.most_micros or 0):
        judged = "all of it fits"
    elif free >= (plan.cost_micros or 0) + (plan.most_call_micros or 0):
        judged = "it fits if answers are as long as is expected"
    else:
        judged = "too little; the run will be held, and go on with a larger one"
    return f"{dollars(budget)}{_told(spent)}: {judged}"


def _told(spent: Spent) -> str:
    if not (spent.taken_micros or spent.is_doubtful):
        return ""
    told = f"{dollars(spent.micros)} spent already"
    if spent.reserved_micros:
        told += f", and {dollars(spent.reserved_micros)} reserved"
    if spent.is_doubtful:
        told += " by its ledger; Redis, which may know of more, is away"
    return f" ({told})"
