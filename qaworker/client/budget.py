"""A run's budget on its client's side: in the ledger for good, and open in Redis for all workers."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice

from redis import Redis

from qaworker.client import cancelling
from qaworker.client.recording import NOTICES_AT_ONCE, Recording
from qaworker.errors import ConfigError, RunHeld
from qaworker.limits.budget import State, open_budget, state
from qaworker.llm.prices import Price, cost_micros, dollars
from qaworker.store.holds import (
    BUDGET,
    BUDGET_UNKNOWN,
    UNPRICED,
    Hold,
    hold_of,
    release_for,
    run_scope,
)
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader


class Budget:
    """Of one run, which may have none; every method raises StoreUnavailable."""

    def __init__(
        self, redis: Redis, ledger: Ledger, price: Price | None, *, keep: timedelta
    ) -> None:
        """Prepare for a run.

        Args:
            redis: that the workers use.
            ledger: of the run.
            price: of its model; None where it has no budget, and gets none.
            keep: how long a budget outlives its last call.
        """
        self._redis = redis
        self._ledger = ledger
        self._price = price
        self._keep = keep
        self._scope = run_scope(ledger.run_id)

    def set(self, micros: int, broker: Redis) -> None:
        """Give the run a budget, or another one; a larger one releases it.

        Args:
            micros: for all of the run, from its beginning.
            broker: of the queue, where chunks may wait that were sent without a budget.

        Raises:
            ConfigError: more is spent or reserved already, or chunks are under way without a budget.
        """
        # What is paid and not collected: of calls without a budget, Redis has no sum.
        Recording(self._ledger, OutcomeReader(self._redis)).record_all()
        before = state(self._redis, self._ledger.run_id)
        spent_micros = max(self._spent_micros(), before.spent_micros)
        if micros < spent_micros + before.reserved_micros:
            under_way = (
                f", and calls under way may cost {dollars(before.reserved_micros)} more"
                if before.reserved_micros
                else ""
            )
            raise ConfigError(
                f"the run has spent {dollars(spent_micros)} already{under_way}:"
                f" give a --budget of {dollars(spent_micros + before.reserved_micros)} or more"
            )
        if self._ledger.budget_micros is None and self._is_under_way(broker):
            raise ConfigError(
                "chunks of this run are under way without a budget: take them back with"
                " `qaworker cancel`; once workers have ended what they hold, the same command goes on"
            )
        self._ledger.set_budget(micros)
        self._open(micros)
        # After the budget: see Purse._hold_if_hopeless.
        if before.budget_micros is None or micros > before.budget_micros:
            self._release(BUDGET)

    def resume(self) -> None:
        """Open the budget the run was given, if any, as a command begins."""
        self.renew()
        # Workers that still have no price hold it again.
        self._release(UNPRICED)

    def renew(self) -> None:
        """Open the budget again that Redis may have lost."""
        if self._ledger.budget_micros is not None:
            self._open(self._ledger.budget_micros)
            self._release(BUDGET_UNKNOWN)

    def held(self) -> RunHeld | None:
        """Why nobody calls for the run, if that is so, and what to do about it."""
        hold = hold_of(self._redis, self._scope)
        if hold is not None and hold.reason == BUDGET_UNKNOWN:
            self.renew()
            hold = hold_of(self._redis, self._scope)
        return None if hold is None else RunHeld(self._told(hold))

    def release(self) -> None:
        """Release what workers held, as nothing is left to call for; an operator's hold stays."""
        release_for(self._redis, self._scope, "")

    def _told(self, hold: Hold) -> str:
        if hold.is_operators or hold.reason not in {BUDGET, UNPRICED}:
            return (
                f"the run is held ({hold.reason}): after `qaworker hold release {hold.scope}`"
                " the same command goes on"
            )
        if hold.reason == UNPRICED:
            return f"the run is held: {hold.detail}; then the same command goes on"
        return (
            f"the budget does not cover another call ({hold.detail}):"
            " the same command with a larger --budget goes on"
        )

    def _open(self, micros: int) -> State:
        run_id, spent_micros = self._ledger.run_id, self._spent_micros()
        return open_budget(self._redis, run_id, micros, spent_micros=spent_micros, keep=self._keep)

    def _spent_micros(self) -> int:
        """What the ledger knows of."""
        if self._price is None:
            raise ValueError("a budget needs a price")
        return cost_micros(self._ledger.counts().usage, self._price)

    def _release(self, reason: str) -> None:
        if release_for(self._redis, self._scope, reason):
            # Workers left all of it to this client.
            self._ledger.mark_all_waiting()

    def _is_under_way(self, broker: Redis) -> bool:
        """Whether a worker may call, or be about to, that knows of no budget.

        What nobody has claimed yet would be charged all the same, but only as long as Redis knows the
        budget, and what was sent since says itself that there is one.
        """
        # A run that begins is not to read what others have in the queue: 2 GB for a million chunks.
        if not self._ledger.was_sent:
            return False
        reader = OutcomeReader(self._redis)
        sent = (digest for digest, _ in self._ledger.sent())
        while page := list(islice(sent, NOTICES_AT_ONCE)):
            if reader.claimed(page):
                return True
        run_id = self._ledger.run_id
        # In this order, as messages go from the queue to a worker.
        waiting = cancelling.waiting(broker, run_id).messages
        return bool(waiting) or cancelling.delivered(broker, run_id) > 0
