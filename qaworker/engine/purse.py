"""Pays for the calls of runs that have a budget: none is made that the budget does not cover.

What a call can cost at most is reserved when the limiter has let it pass, and settled when it ends: so
a process that dies leaves no more reserved than its calls on the wire. Before that it waits here, where
nothing is reserved, until the budget seems to cover it. One task asks and settles for all calls of the
process, those of a run in one round trip. When nothing that calls under way may give back is enough,
the run is held. While Redis is away nobody is granted anything, and nothing that is to be settled is
lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, Never, Protocol, Self

from qaworker import logs
from qaworker.engine.background import LAST_WRITE_S
from qaworker.engine.held_runs import HeldRuns
from qaworker.engine.holding import Holds
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.limits.budget import Granted, Settlement, State
from qaworker.llm.counting import most_input_tokens
from qaworker.llm.estimates import Tokens
from qaworker.llm.prices import Price, cost_micros, dollars, most_micros
from qaworker.models import Usage
from qaworker.store.holds import BUDGET, BUDGET_UNKNOWN, UNPRICED, run_scope

log = logs.get(__name__)

# Other processes' calls may have given something back by then.
RETRY_S: Final = 1.0
# Calls that begin or end at about the same time share a round trip.
GATHER_S: Final = 0.01


class Budgets(Protocol):
    """Where budgets are kept; :class:`qaworker.limits.budget.Budgets` in production."""

    def reservation(self, micros: int, /) -> str:
        """A reservation to ask for, with the same name however often."""

    async def reserve(
        self, run_id: str, asked: Sequence[str], settled: Sequence[Settlement] = ()
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
        """The provider charged so much for the call; what it did not tell is charged in full."""
        if usage.is_told:
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


class Bill(Protocol):
    """One call that is to be paid for."""

    async def __call__(self) -> Money | None:
        """Reserve what it can cost at most; None where the budget does not cover that now."""


async def _nothing() -> Money:
    return _free()


@dataclass(eq=False, slots=True)
class _Waiter:
    """A call that waits for an answer."""

    micros: int
    answer: asyncio.Future[bool]
    reservation: str = ""


@dataclass(slots=True)
class _Pocket:
    """The money of one run, as this process knows it."""

    free_micros: int = 0
    """Neither spent nor reserved when Redis was last asked."""
    foreseen_micros: int = 0
    """Of those who were let through and have not reserved yet."""
    waiting: deque[_Waiter] = field(default_factory=deque)
    """Whom the budget does not seem to cover, in the order they came."""
    asking: list[_Waiter] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)

    @property
    def has_questions(self) -> bool:
        """Whether Redis is to be asked or told."""
        return bool(self.waiting or self.asking or self.settlements)

    def let_through(self) -> None:
        """As many of those who wait as the budget seems to cover."""
        while self.waiting and (
            self.foreseen_micros + self.waiting[0].micros <= self.free_micros
            or self.waiting[0].answer.done()
        ):
            waiter = self.waiting.popleft()
            if not waiter.answer.done():  # it was cancelled
                self.foreseen_micros += waiter.micros
                waiter.answer.set_result(True)


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

    @asynccontextmanager
    async def foresee(self, run_id: str | None, model: str, tokens: Tokens) -> AsyncIterator[Bill]:
        """Wait until the budget seems to cover a call; its work is stopped when it never will.

        In the context, others are kept from waiting elsewhere for the same money.

        Args:
            run_id: whose budget pays; None for calls that no budget bounds.
            model: to call.
            tokens: what the call takes.
        """
        if run_id is None:
            yield _nothing
            return
        try:
            price = self._price(model)
        except ConfigError as error:
            await self._hold_unpriced(run_id, error)
        most = most_micros(most_input_tokens(tokens.input), tokens.output_cap, price)
        pocket, waiter = self._pocket(run_id), self._waiter(most)
        pocket.waiting.append(waiter)
        pocket.let_through()
        if not waiter.answer.done():
            self._wake.set()
        try:
            await waiter.answer
            yield partial(self._reserve, run_id, price, most)
        finally:
            if not waiter.answer.cancelled():
                pocket.foreseen_micros -= most
                pocket.let_through()

    async def _reserve(self, run_id: str, price: Price, most: int) -> Money | None:
        waiter = self._waiter(most, self._budgets.reservation(most))
        self._pocket(run_id).asking.append(waiter)
        self._wake.set()
        try:
            is_granted = await waiter.answer
        except asyncio.CancelledError:
            # Whether it was granted may be unknown yet.
            self._settle(run_id, waiter.reservation, 0)
            raise
        if not is_granted:
            return None
        return Money(price, most, partial(self._settle, run_id, waiter.reservation))

    async def run(self) -> None:
        """Ask and settle, until cancelled."""
        while True:
            is_asked_again = any(pocket.waiting for pocket in self._pockets.values())
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if is_asked_again else None):
                    await self._wake.wait()
            await asyncio.sleep(GATHER_S)
            self._wake.clear()
            try:
                await self._exchange_all()
            except StoreUnavailable as error:
                waiting = sum(len(one.waiting) + len(one.asking) for one in self._pockets.values())
                log.warning("calls_wait_for_redis", waiting=waiting, error=str(error))
                await asyncio.sleep(RETRY_S)
                self._wake.set()
            except Exception:  # without this task no budgeted call would ever be made
                log.exception("budgets_not_asked")
                await asyncio.sleep(RETRY_S)
                self._wake.set()

    async def close(self) -> None:
        """Settle what is left, at the end; without Redis it is charged in full."""
        for pocket in self._pockets.values():
            pocket.waiting.clear()
            pocket.asking.clear()
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(LAST_WRITE_S):
                await self._exchange_all()

    async def _exchange_all(self) -> None:
        for run_id, pocket in tuple(self._pockets.items()):
            if pocket.has_questions:
                await self._exchange(run_id, pocket)
            elif not pocket.foreseen_micros:
                del self._pockets[run_id]

    async def _exchange(self, run_id: str, pocket: _Pocket) -> None:
        asking = [waiter for waiter in pocket.asking if not waiter.answer.done()]
        settlements, pocket.asking, pocket.settlements = pocket.settlements, [], []
        try:
            asked = [waiter.reservation for waiter in asking]
            granted = await self._budgets.reserve(run_id, asked, settlements)
        except BaseException:
            pocket.asking, pocket.settlements = (
                asking + pocket.asking,
                settlements + pocket.settlements,
            )
            raise
        for place, waiter in enumerate(asking):
            if not waiter.answer.done():  # it was cancelled meanwhile
                waiter.answer.set_result(place < granted.reservations)
        pocket.free_micros = granted.state.free_micros
        pocket.let_through()
        if pocket.waiting:
            await self._hold_if_hopeless(run_id, pocket.waiting[0].micros, granted.state)

    async def _hold_if_hopeless(self, run_id: str, micros: int, state: State) -> None:
        if state.covers(micros):
            return
        if state.budget_micros is None:
            reason, why = BUDGET_UNKNOWN, "Redis has lost it; the run's own command opens it again"
        else:
            reason = BUDGET
            spent = f"{dollars(state.spent_micros)} of {dollars(state.budget_micros)} spent"
            why = f"{spent}, and the next call may cost {dollars(micros)}"
        now = await self._hold(run_id, reason, why)
        if now.covers(micros):
            await self._holds.release(run_scope(run_id))
            self._wake.set()
        else:
            self._held_runs.add(run_id)

    async def _hold(self, run_id: str, reason: str, why: str) -> State:
        """Hold a run, unless it was cancelled and nobody is left to release it."""
        await self._holds.set_hold(run_scope(run_id), reason, detail=why)
        # Whoever opens or raises a budget, or cancels its run, does that first, and releases the hold
        # then: read in the other order, one of the two is sure to see the other.
        now = (await self._budgets.reserve(run_id, ())).state
        if now.is_cancelled:
            await self._holds.release(run_scope(run_id))
        return now

    async def _hold_unpriced(self, run_id: str, error: ConfigError) -> Never:
        """Hold a run that nobody here can reckon for, and wait for its work to be stopped."""
        while True:
            try:
                await self._hold(run_id, UNPRICED, str(error))
                self._held_runs.add(run_id)
            except StoreUnavailable as away:
                log.warning("hold_not_set", run=run_id, error=str(away))
            await asyncio.sleep(RETRY_S)

    def _settle(self, run_id: str, reservation: str, micros: int) -> None:
        self._pocket(run_id).settlements.append(Settlement(reservation, micros))
        self._wake.set()

    def _pocket(self, run_id: str) -> _Pocket:
        return self._pockets.setdefault(run_id, _Pocket())

    def _waiter(self, micros: int, reservation: str = "") -> _Waiter:
        return _Waiter(micros, asyncio.get_running_loop().create_future(), reservation)
