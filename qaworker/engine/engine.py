"""The engine: batches in, outcomes in Redis; one per process, on one event loop.

A batch's chunks are claimed, asked (at most ``calls_in_flight`` at once over all batches), and
their outcomes written before the batch returns. Two batches of a process that hold the same chunk
share one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from qaworker import logs
from qaworker.engine import background
from qaworker.engine.asking import Asking
from qaworker.engine.batches import Batch
from qaworker.engine.gate import Gates
from qaworker.engine.held_runs import HeldRuns
from qaworker.engine.holding import Holding, Holds
from qaworker.engine.ladder import Generator, Ladder
from qaworker.engine.line import RateLimiter
from qaworker.engine.meter import Meter
from qaworker.engine.promises import Promised, Promises
from qaworker.engine.purse import Budgets, Purse
from qaworker.engine.recorder import Recorder
from qaworker.engine.suspects import Suspects
from qaworker.engine.turnstile import Turnstile
from qaworker.engine.work import Work
from qaworker.errors import HaltError, StoreUnavailable
from qaworker.llm.prices import Price
from qaworker.models import Chunk, Outcome
from qaworker.store.counters import Counts
from qaworker.store.holds import Hold
from qaworker.store.outcomes import Claims, Notice, OutcomeStore, settles

log = logs.get(__name__)

RETRY_S = 1.0
# A small part of a task's soft limit, and more than the pauses of a queue that runs empty.
ADMITTED_S = 30.0
# What waits for a held model goes back to the queue after as long, for others are behind it; of the
# next that comes a probe is made.
HELD_S = 30.0
# As many chunks may come before the limiter has said how long they wait.
MOST_UNDECIDED = 32
# So many tasks of models that are slow leave most of a process's threads to those that are not.
MOST_SLOW = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds an engine; durations in seconds."""

    calls_in_flight: int
    call_timeout_s: float
    soft_limit_s: float
    hard_limit_s: float


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers of one provider account have in common."""

    account: str
    limiter: RateLimiter
    holds: Holds
    budgets: Budgets
    price: Callable[[str], Price]
    """Of a model, or ConfigError."""


class Engine:
    """Generates outcomes; make one with :func:`running`."""

    def __init__(
        self,
        generator: Generator,
        store: OutcomeStore,
        turnstile: Turnstile,
        shared: Shared,
        limits: Limits,
    ) -> None:
        self._limits = limits
        self._turnstile = turnstile
        self._gates = Gates()
        self.held_runs = HeldRuns(shared.holds.holds, self._stop_run)
        self.holding = Holding(self._gates, shared.holds, shared.account, on_look=self._heed)
        self.purse = Purse(shared.budgets, shared.holds, self.held_runs, shared.price)
        counts = Counts()
        self._meter = Meter(counts, shared.price)
        self._ladder = Ladder(
            generator,
            self._gates,
            turnstile,
            self.purse,
            Suspects(store),
            self._meter,
            call_timeout_s=limits.call_timeout_s,
        )
        self.recorder = Recorder(store, counts)
        self.promises = Promises(store)
        self._asking = Asking(self._ladder, self.recorder, self.promises)
        self._working: set[Work] = set()
        self._is_draining = False

    @property
    def calls_in_flight(self) -> int:
        """Calls on the wire now."""
        return self._ladder.calls_in_flight

    @property
    def calls_waiting(self) -> int:
        """Calls that wait for the limiter or for a free slot; any thread may ask."""
        return self._turnstile.waiting

    @property
    def oldest_wait_s(self) -> float:
        """For how long the one that waits longest has waited; any thread may ask."""
        return self._turnstile.oldest_wait_s

    @property
    def chunks_done(self) -> int:
        """Outcomes this process has written."""
        return self._asking.chunks_done

    @property
    def halted_by(self) -> HaltError | None:
        """Why nobody calls, or nobody a model, while the account or the model cannot be used."""
        return self._gates.halted_by

    @property
    def refused_by(self) -> HaltError | None:
        """What a call of this process was refused with, while that is held."""
        return self._gates.refused_by

    @property
    def admits(self) -> bool:
        """Whether another task would soon be asked for: what would only wait stays in the queue.

        Whose the next task is nobody knows before it is taken. So a model that is slow keeps others
        out only when it has MOST_SLOW tasks here, or is all there is. While the account is held
        there is one, to try with. Any thread may ask.
        """
        if self._gates.account.halted_by is not None:
            return not self._working
        slow = self._turnstile.slow(ADMITTED_S)
        tasks = sum(work.batch.model in slow.models for work in tuple(self._working))
        if slow.models and (slow.is_all or tasks >= MOST_SLOW):
            return False
        # Who waits for a slot waits for no limiter.
        return (
            self.calls_in_flight >= self._limits.calls_in_flight
            or self._undecided - slow.waiting < MOST_UNDECIDED
        )

    @property
    def _undecided(self) -> int:
        """Chunks for which the limiter was not asked, or not granted anything yet."""
        arriving = (len(work.batch.chunks) for work in tuple(self._working) if work.is_arriving)
        return self._turnstile.waiting + sum(arriving)

    def drain(self) -> None:
        """Finish the calls on the wire, hand everything else back, and take nothing new."""
        self._is_draining = True
        for work in self._working:
            work.stop()

    def give_back(self) -> None:
        """Drain without waiting for the calls on the wire: they are cancelled."""
        self._is_draining = True
        for work in self._working:
            work.give_back()

    def _heed(self, holds: Sequence[Hold]) -> None:
        """Stop what is not to be waited for here: of runs that are held, and of a model for long."""
        self.held_runs.match(holds)
        now_s = asyncio.get_running_loop().time()
        for work in self._working:
            if self._gates.of(work.batch.model).halted_by is None:
                work.held_since_s = None
            elif work.held_since_s is None:
                work.held_since_s = now_s
            elif now_s - work.held_since_s >= HELD_S:
                work.stop()

    def _stop_run(self, run_id: str) -> None:
        for work in self._working:
            if work.batch.run_id == run_id:
                work.stop()

    async def process(self, batch: Batch) -> dict[str, Outcome]:
        """The outcomes of a batch by digest; a digest without one goes back to the queue.

        That of a run in ``held_runs`` is left to its client. After the soft limit no call begins, nor
        after HELD_S for a model that is held; at
        the hard limit those on the wire are cancelled. What was answered is written before this
        returns, even if that takes longer.

        Raises:
            StoreUnavailable: whether the run is held cannot be told.
        """
        self._meter.message_began(batch.queue, batch.waited_s, is_redelivered=batch.is_redelivered)
        if await self.held_runs.hold_still(batch.run_id):
            return {}
        loop = asyncio.get_running_loop()
        structlog.contextvars.bind_contextvars(run=batch.run_id, task=batch.task_id)
        work = Work(batch, is_stopping=self._is_draining)
        self._working.add(work)
        limits = (
            loop.call_later(self._limits.soft_limit_s, work.stop),
            loop.call_later(self._limits.hard_limit_s, work.abort),
        )
        try:
            return await self._process(work)
        finally:
            for limit in limits:
                limit.cancel()
            self._working.discard(work)

    async def _process(self, work: Work) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        chunks = work.batch.by_digest()
        while chunks and not work.is_stopping:
            # The futures, as a digest is forgotten when its call ends, which may be while we claim.
            joined = self.promises.of(chunks)
            unclaimed = [digest for digest in chunks if digest not in joined]
            try:
                claims = await self.promises.claim(unclaimed, work.batch.run_id)
            except StoreUnavailable as error:
                log.warning("chunks_wait_for_redis", chunks=len(unclaimed), error=str(error))
                await asyncio.sleep(RETRY_S)
                continue
            work.is_arriving = False
            outcomes |= await self._settle(work, chunks, claims, tuple(joined.values()))
            for digest in outcomes:
                chunks.pop(digest, None)
            if claims.busy and not work.is_stopping:
                await asyncio.sleep(RETRY_S)
        return outcomes

    async def _settle(
        self, work: Work, chunks: dict[str, Chunk], claims: Claims, joined: Sequence[Promised]
    ) -> dict[str, Outcome]:
        """The outcomes of what is known, claimed here, or promised to another batch."""
        # A digest whose outcome is written may be claimed anew before the last one here is.
        promised = self.promises.of(claims.claimed)
        work.spent |= claims.spent
        work.deaths |= claims.deaths
        work.has_budget |= claims.has_budget
        if claims.deaths:
            most = max(claims.deaths.values())
            log.warning("workers_died_with_chunks", chunks=len(claims.deaths), deaths=most)
        try:
            await self._tell(work, claims.known)
            generated, found = await asyncio.gather(
                self._asking.generate(work, {digest: chunks[digest] for digest in claims.claimed}),
                self._join(work, joined),
            )
        finally:
            # Also after a defect: a claim that is renewed for nothing keeps everybody from its chunk.
            left = [digest for digest, future in promised.items() if not future.done()]
            await self.promises.give_up(left, work.spent, work.batch.run_id)
        return claims.known | generated | found

    async def _join(self, work: Work, promised: Sequence[Promised]) -> dict[str, Outcome]:
        """Wait for what another batch of this process is generating."""
        pending = set(promised)
        results: list[Outcome | None] = []
        while pending and not work.is_stopping:
            done, pending = await asyncio.wait(pending, timeout=RETRY_S)
            results.extend(future.result() for future in done)
        run_id = work.batch.run_id
        found = {o.digest: o for o in results if o is not None and settles(o, run_id)}
        await self._tell(work, found)
        return found

    async def _tell(self, work: Work, digests: Iterable[str]) -> None:
        """Let the run know of outcomes that were generated for another."""
        await self.recorder.record(*[Notice(digest, work.batch.run_id) for digest in digests])


@asynccontextmanager
async def running(
    generator: Generator, store: OutcomeStore, shared: Shared, limits: Limits
) -> AsyncIterator[Engine]:
    """An engine with its background tasks, on the running loop."""
    async with Turnstile(shared.limiter, calls_in_flight=limits.calls_in_flight) as turnstile:
        engine = Engine(generator, store, turnstile, shared, limits)
        # What others hold is known before the first call.
        await engine.holding.look()
        loops = (
            engine.promises.hold(),
            engine.recorder.run(),
            engine.holding.run(),
            engine.purse.run(),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            yield engine
        finally:
            await background.end(tasks)
            await engine.purse.close()
            await engine.recorder.close()
