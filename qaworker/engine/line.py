"""Those who wait to call one model: first come, first served, by the limiter's leave.

One task asks the limiter for all of them, as many as there are free slots, and settles what earlier
calls used in the same round trip. While Redis is away nobody passes, everybody waits, and nothing
that is to be settled is lost.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

from qaworker import logs
from qaworker.errors import ChunkTooLarge, Reported, StoreUnavailable
from qaworker.limits.limiter import (
    ASK_AGAIN_S,
    HORIZON_S,
    MOST_RESERVATIONS,
    Exchanged,
    Grant,
    Settlement,
)

log = logs.get(__name__)

RETRY_S = 1.0
# Settlements that no reservation takes along go together, once in so long.
FLUSH_S = 0.05
# Asking this much before the first can be granted keeps the limiter's bucket from running over.
AHEAD_S = HORIZON_S / 2
# Calls that are granted at once, for times within so long, begin together with the last of them: what one
# wakes is then at hand for the others, which saves a fifth of a busy process' time.
TOGETHER_S = 0.05
# The pace of a line is that of about so long.
PACE_S = 10.0


class RateLimiter(Protocol):
    """What grants passages; :class:`qaworker.limits.limiter.Limiter` in production."""

    async def exchange(
        self, model: str, settle: Sequence[Settlement], reserve: Sequence[int], /
    ) -> Exchanged:
        """Settle and reserve, or raise StoreUnavailable; who comes later waits no shorter."""

    async def learn(self, model: str, rpm: float | None, tpm: float | None, /) -> None:
        """Take what the provider reports, or raise StoreUnavailable."""

    async def pause(self, model: str, seconds: float, /) -> None:
        """Grant nothing for a while, or raise StoreUnavailable."""


class Passage:
    """The right to make one call, and the slot it is made in; leaving it frees the slot.

    What is not settled stays charged in full.
    """

    def __init__(self, line: Line, grant: Grant) -> None:
        self._line = line
        self._grant = grant
        self._is_open = True

    def settle(self, used_tokens: int) -> None:
        """The provider charged so many tokens for the call."""
        self._line.settle(self._grant.used(used_tokens))

    def give_back(self) -> None:
        """The call is not made: everything goes back."""
        if self._is_open:
            self._line.settle(self._grant.unused())
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._line.slots.release()


class _Waiter:
    """One call that wants to pass."""

    def __init__(self, tokens: int) -> None:
        loop = asyncio.get_running_loop()
        self.tokens = tokens
        self.since_s = loop.time()
        self.passage: asyncio.Future[Passage] = loop.create_future()

    def pass_with(self, passage: Passage) -> None:
        if self.passage.done():  # it was cancelled while the limiter was asked
            passage.give_back()
        else:
            self.passage.set_result(passage)

    def fail(self, error: Exception) -> None:
        if not self.passage.done():
            self.passage.set_exception(error)


class Line:
    """One model's; :meth:`pump` and :meth:`flush` are run as long as it is used."""

    def __init__(self, model: str, limiter: RateLimiter, slots: asyncio.Semaphore) -> None:
        self.model = model
        self._limiter = limiter
        self._clock = asyncio.get_running_loop().time
        self.slots = slots
        self._queue: deque[_Waiter] = deque()
        self.waiting: dict[_Waiter, None] = {}
        """All who have no passage yet, in the order they came."""
        self._entered_s = -math.inf
        self._settlements: list[Settlement] = []
        self._reported: Reported = (None, None)
        self._exchanging = asyncio.Lock()
        self._joined, self._settled, self._nudged = (asyncio.Event() for _ in range(3))
        self._ask_at_s = 0.0
        self._granted = 0
        """Since the pace was measured."""
        self._measured_at_s = 0.0
        self._pace: float | None = None
        """Passages a second; None while nobody is refused."""

    async def enter(self, tokens: int) -> Passage:
        """See :meth:`qaworker.engine.turnstile.Turnstile.enter`."""
        waiter = _Waiter(tokens)
        self._entered_s = waiter.since_s
        self._queue.append(waiter)
        self.waiting[waiter] = None
        self._joined.set()
        try:
            return await waiter.passage
        except asyncio.CancelledError:
            if not waiter.passage.cancelled() and waiter.passage.exception() is None:
                waiter.passage.result().give_back()
            raise
        finally:
            del self.waiting[waiter]

    def settle(self, settlement: Settlement) -> None:
        """Let the limiter know with the next exchange, or soon."""
        self._settlements.append(settlement)
        self._settled.set()

    def report(self, reported: Reported) -> None:
        """Let the limiter know soon what the provider reports, while the answer is written."""
        self._reported = reported
        self._settled.set()

    async def learn(self, reported: Reported) -> None:
        """See :meth:`qaworker.engine.turnstile.Turnstile.learn`."""
        try:
            await self._limiter.learn(self.model, *reported)
        except StoreUnavailable as error:
            log.warning("limits_not_told", model=self.model, error=str(error))

    @property
    def oldest_wait_s(self) -> float:
        """For how long the first of those who wait has waited: 0 when nobody waits; for any thread."""
        waiting = tuple(self.waiting)
        return self._clock() - waiting[0].since_s if waiting else 0.0

    @property
    def idle_s(self) -> float:
        """For how long nobody has come; for any thread."""
        return self._clock() - self._entered_s

    @property
    def wait_estimate_s(self) -> float:
        """What a newcomer would wait for the limiter: 0 while nobody is refused; for any thread."""
        pace = self._pace
        if not pace:
            return 0.0
        refused_for_s = max(0.0, self._ask_at_s - self._clock())
        return refused_for_s + len(self.waiting) / pace

    async def pump(self) -> None:
        """Ask the limiter for those who wait, until cancelled."""
        while True:
            await self._somebody_waits()
            await self._refusal_is_over()
            slots = await self._take_slots()
            waiters = self._first(slots)
            self._release(slots - len(waiters))
            if waiters:
                await self._ask(waiters)

    async def flush(self) -> None:
        """Settle what no reservation takes along, until cancelled."""
        next_s = 0.0
        while True:
            await self._settled.wait()
            # At once, if it is the only one: the provider has taken it into account already.
            await asyncio.sleep(next_s - _now_s())
            next_s = _now_s() + FLUSH_S
            self._settled.clear()
            try:
                if self._settlements:
                    await self._exchange(())
                    # What came back may be enough for who was refused.
                    self._ask_at_s = 0.0
                    self._nudged.set()
                if any(self._reported):
                    await self.learn(self._reported)
            except Exception:  # what is lost stays charged in full
                log.exception("settlements_lost", model=self.model)

    async def _somebody_waits(self) -> None:
        while True:
            while self._queue and self._queue[0].passage.done():
                self._queue.popleft()
            if self._queue:
                return
            self._joined.clear()
            await self._joined.wait()

    async def _refusal_is_over(self) -> None:
        while (left_s := self._ask_at_s - _now_s()) > 0:
            self._nudged.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._nudged.wait()

    async def _take_slots(self) -> int:
        # The first is waited for in turn with other lines, which no further one is taken from.
        await self.slots.acquire()
        slots = 1
        while slots < min(len(self._queue), MOST_RESERVATIONS) and not self.slots.locked():
            await self.slots.acquire()
            slots += 1
        return slots

    def _first(self, most: int) -> list[_Waiter]:
        waiters: list[_Waiter] = []
        while self._queue and len(waiters) < most:
            waiter = self._queue.popleft()
            if not waiter.passage.done():
                waiters.append(waiter)
        return waiters

    async def _ask(self, waiters: Sequence[_Waiter]) -> None:
        try:
            exchanged = await self._exchange([waiter.tokens for waiter in waiters])
        except Exception as error:  # without this task nobody would ever pass
            log.exception("passage_failed", model=self.model, waiting=len(waiters))
            for waiter in waiters:
                waiter.fail(error)
            self._release(len(waiters))
            return
        granted: list[tuple[_Waiter, Grant]] = []
        for waiter, answer in zip(waiters, exchanged.answers, strict=False):
            if isinstance(answer, ChunkTooLarge):
                waiter.fail(answer)
                self._release(1)
            else:
                granted.append((waiter, answer))
        self._granted += len(granted)
        self._let_pass(granted)
        refused = waiters[len(exchanged.answers) :]
        self._queue.extendleft(reversed(refused))
        self._release(len(refused))
        self._note(exchanged.refused_wait_s)

    def _let_pass(self, granted: Sequence[tuple[_Waiter, Grant]]) -> None:
        """Let them pass in their order, and each when his time has come."""
        loop = asyncio.get_running_loop()
        group: list[tuple[_Waiter, Grant]] = []
        for waiter, grant in granted:
            if group and grant.wait_s - group[0][1].wait_s > TOGETHER_S:
                loop.call_later(group[-1][1].wait_s, self._begin, group)
                group = []
            group.append((waiter, grant))
        if group:
            loop.call_later(group[-1][1].wait_s, self._begin, group)

    def _begin(self, group: Sequence[tuple[_Waiter, Grant]]) -> None:
        for waiter, grant in group:
            waiter.pass_with(Passage(self, grant))

    async def _exchange(self, reserve: Sequence[int]) -> Exchanged:
        async with self._exchanging:
            settlements, self._settlements = self._settlements, []
            while True:
                try:
                    return await self._limiter.exchange(self.model, settlements, reserve)
                except StoreUnavailable as error:
                    waiting = len(self.waiting)
                    log.warning(
                        "calls_wait_for_redis", model=self.model, waiting=waiting, error=str(error)
                    )
                    await asyncio.sleep(RETRY_S)

    def _note(self, refused_wait_s: float | None) -> None:
        """Remember when to ask again, and how fast the line moves."""
        now_s = _now_s()
        if refused_wait_s is None:
            if not self._queue:
                self._pace, self._granted = None, 0
            return
        if self._pace is None:
            self._pace = (self._granted + 1) / refused_wait_s
        else:
            elapsed_s = max(now_s - self._measured_at_s, 0.001)
            weight = -math.expm1(-elapsed_s / PACE_S)
            self._pace += weight * (self._granted / elapsed_s - self._pace)
        self._granted, self._measured_at_s = 0, now_s
        # Who is refused for less than the horizon may pass at his time and not before.
        ahead_s = AHEAD_S if refused_wait_s > HORIZON_S else 0.0
        self._ask_at_s = now_s + min(refused_wait_s - ahead_s, ASK_AGAIN_S)

    def _release(self, slots: int) -> None:
        for _ in range(slots):
            self.slots.release()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
