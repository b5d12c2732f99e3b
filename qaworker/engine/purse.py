"""Pays for the calls of runs that have a budget: none is made that the budget does not cover.

What a call can cost at most is reserved before it waits for the limiter, and settled when it ends.
One task does so for all calls of the process, those of a run in one round trip. Who is refused while
other calls may still give something back asks again; when they could not give enough, the run is
held. While Redis is away nobody is granted anything, and nothing that is to be settled is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Never, Protocol, Self

from qaworker import logs
from qaworker.engine.held_runs import HeldRuns
from qaworker.engine.holding import Holds
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.limits.budget import Granted, Settlement, State
from qaworker.llm.counting import most_input_tokens
from qaworker.llm.estimates import Tokens
from qaworker.llm.prices import Price, cost_micros, dollars, most_micros
from qaworker.models import Usage
from qaworker.store.holds import BUDGET, UNPRICED, run_scope

log = logs.get(__name__)

# Other processes' calls may have given something back by then.
RETRY_S: Final = 1.0
# Calls that begin or end at about the same time share a round trip.
GATHER_S: Final = 0.01


class Budgets(Protocol):
    """Where budgets are kept; :class:`qaworker.limits.budget.Budgets` in production."""

    async def reserve(
        self, run_id: str, micros: Sequence[int], settled: Sequence[Settlement] = ()
    ) -> Granted:
        """Settle, then reserve, or raise StoreUnavailable."""


class Money:
    """What one call can cost at most, reserved; left unsettled, it is charged in full."""

    def __init__(self, price: Price, most: int, settle: Callable[[int], None]) -> None:
        self._price = price
        self._most = most
        self._settle = settle
        self._is_open = True

    def charge(self, usage: Usage) -> None:
        """The provider charged so much for the call; no usage at all is none that it told."""
        if usage.input or usage.output:
            self._close(cost_micros(usage, self._price))

    def give_back(self) -> None:
        """The call is not made, or costs nothing."""
        self._close(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close(self._most)

    def _close(self, micros: int) -> None:
        if self._is_open:
            self._is_open = False
            self._settle(micros)


_NO_PRICE: Final = Price.model_validate({"input": 0, "output": 0})


def _free() -> Money:
    """For a run without a budget."""
    return Money(_NO_PRICE, 0, lambda _: None)


@dataclass(eq=False, slots=True)
class _Waiter:
    """A call that wants money."""

    micros: int
    reservation: asyncio.Future[str]


@dataclass(slots=True)
class _Pocket:
    """What is to be asked and said of one run."""

    waiters: list[_Waiter] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)


class Purse:
    """All of a process's budgeted calls are paid here; :meth:`run` runs as long as it is used."""

    def __init__(
        self,
        budgets: Budgets,
        holds: Holds,
        held_runs: HeldRuns,
        price: Callable[[str], Price],
    ) -> None:
        """Begin with no money.

        Args:
            budgets: that all workers use.
            holds: likewise.
            held_runs: learns of the runs that are held here.
            price: of a model, or ConfigError.
        """
        self._budgets = budgets
        self._holds = holds
        self._held_runs = held_runs
        self._price = price
        self._pockets: dict[str, _Pocket] = {}
        self._wake = asyncio.Event()

    async def reserve(self, run_id: str | None, model: str, tokens: Tokens) -> Money:
        """Return when a call may be paid for; its work is stopped when it never may.

        Args:
            run_id: whose budget pays; None for calls that no budget bounds.
            model: to call.
            tokens: what the call takes.
        """
        if run_id is None:
            return _free()
        try:
            price = self._price(model)
        except ConfigError as error:
            await self._hold_unpriced(run_id, error)
        most = most_micros(most_input_tokens(tokens.input), tokens.output_cap, price)
        waiter = _Waiter(most, asyncio.get_running_loop().create_future())
        self._pocket(run_id).waiters.append(waiter)
        self._wake.set()
        try:
            reservation = await waiter.reservation
        except asyncio.CancelledError:
            if not waiter.reservation.cancelled():
                self._settle(run_id, waiter.reservation.result(), 0)
            raise
        return Money(price, most, partial(self._settle, run_id, reservation))

    async def run(self) -> None:
        """Ask and settle, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._pockets else None):
                    await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                for run_id in tuple(self._pockets):
                    await self._exchange(run_id)
            except StoreUnavailable as error:
                waiting = sum(len(pocket.waiters) for pocket in self._pockets.values())
                log.warning("calls_wait_for_redis", waiting=waiting, error=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception:  # without this task no budgeted call would ever be made
                log.exception("budgets_not_asked")
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """Settle what is left, at the end; without Redis it is charged in full."""
        with suppress(StoreUnavailable):
            for run_id in tuple(self._pockets):
                self._pockets[run_id].waiters.clear()
                await self._exchange(run_id)

    async def _exchange(self, run_id: str) -> None:
        pocket = self._pockets.pop(run_id)
        waiters = [one for one in pocket.waiters if not one.reservation.done()]
        settlements = pocket.settlements
        if not waiters and not settlements:
            return
        try:
            asked = [one.micros for one in waiters]
            granted = await self._budgets.reserve(run_id, asked, settlements)
        except BaseException:
            self._pocket(run_id).settlements += settlements
            self._wait_again(run_id, waiters)
            raise
        for waiter, reservation in zip(waiters, granted.reservations, strict=False):
            if waiter.reservation.done():  # it was cancelled meanwhile
                self._settle(run_id, reservation, 0)
            else:
                waiter.reservation.set_result(reservation)
        if refused := waiters[len(granted.reservations) :]:
            self._wait_again(run_id, refused)
            await self._hold_if_spent(run_id, refused[0].micros, granted.state)

    def _wait_again(self, run_id: str, waiters: Sequence[_Waiter]) -> None:
        if waiters:
            pocket = self._pocket(run_id)
            pocket.waiters = [*waiters, *pocket.waiters]

    async def _hold_if_spent(self, run_id: str, micros: int, state: State) -> None:
        # Redis may have lost a budget that the run's client then opens again.
        if state.budget_micros is None or state.covers(micros):
            return
        spent = f"{dollars(state.spent_micros)} of {dollars(state.budget_micros)} spent"
        await self._holds.set_hold(run_scope(run_id), BUDGET, detail=spent)
        # Whoever raises a budget does that first, and releases the hold then: read in the other
        # order, one of the two is sure to see the other.
        now = (await self._budgets.reserve(run_id, ())).state
        if now.covers(micros):
            await self._holds.release(run_scope(run_id))
        else:
            self._held_runs.add(run_id)

    async def _hold_unpriced(self, run_id: str, error: ConfigError) -> Never:
        """Hold a run that nobody here can reckon for, and wait for its work to be stopped."""
        while True:
            try:
                await self._holds.set_hold(run_scope(run_id), UNPRICED, detail=str(error))
                self._held_runs.add(run_id)
            except StoreUnavailable as away:
                log.warning("hold_not_set", run=run_id, error=str(away))
            await asyncio.sleep(RETRY_S)

    def _settle(self, run_id: str, reservation: str, micros: int) -> None:
        self._pocket(run_id).settlements.append(Settlement(reservation, micros))
        self._wake.set()

    def _pocket(self, run_id: str) -> _Pocket:
        return self._pockets.setdefault(run_id, _Pocket())
