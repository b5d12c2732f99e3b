"""The engine: batches in, outcomes in Redis; one per process, on one event loop.

A batch's chunks are claimed, asked (at most ``calls_in_flight`` at once over all batches), and
their outcomes written before the batch returns. Two batches of a process that hold the same chunk
share one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from qaworker import logs
from qaworker.engine import background
from qaworker.engine.batches import Batch
from qaworker.engine.gate import Gates
from qaworker.engine.held_runs import HeldRuns
from qaworker.engine.holding import Holding, Holds
from qaworker.engine.ladder import ATTEMPTS, Generator, HandedBack, Ladder, Prompt
from qaworker.engine.line import RateLimiter
from qaworker.engine.promises import Promised, Promises
from qaworker.engine.purse import Budgets, Purse
from qaworker.engine.recorder import Recorder
from qaworker.engine.sharing import prompts, shares, together
from qaworker.engine.turnstile import Turnstile
from qaworker.errors import CallError, HaltError, StoreUnavailable
from qaworker.llm.generator import Answer
from qaworker.llm.prices import Price
from qaworker.models import Chunk, Outcome
from qaworker.store.dead_letters import DeadLetter, letter_of
from qaworker.store.outcomes import Claims, Notice, OutcomeStore, Spent, settles

log = logs.get(__name__)

RETRY_S = 1.0
LONGEST_DETAIL = 300
# A small part of a task's soft limit, and more than the pauses of a queue that runs empty.
ADMITTED_S = 30.0
# As many chunks may come before the limiter has said how long they wait.
MOST_UNDECIDED = 32


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


@dataclass(slots=True, eq=False)
class _Work:
    """A batch on its way."""

    batch: Batch
    is_arriving: bool = True
    """Whether nobody knows yet how much of it is to be asked for."""
    is_stopping: bool = False
    prompts: list[Prompt] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)
    """By digest: what its run spent on a chunk, as known when its prompt last ended."""

    def stop(self) -> None:
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.stop()

    def abort(self) -> None:
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.abort()

    def give_back(self) -> None:
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.give_back()


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
        self.holding = Holding(
            self._gates, shared.holds, shared.account, on_look=self.held_runs.match
        )
        self.purse = Purse(shared.budgets, shared.holds, self.held_runs, shared.price)
        self._ladder = Ladder(
            generator,
            self._gates,
            turnstile,
            self.purse,
            call_timeout_s=limits.call_timeout_s,
        )
        self.recorder = Recorder(store)
        self._working: set[_Work] = set()
        self.promises = Promises(store)
        self._is_draining = False
        self.chunks_done = 0

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

        While the account is held there is one, to try with. Any thread may ask.
        """
        if self._gates.account.halted_by is not None:
            return not self._working
        if self._turnstile.longest_wait_s >= ADMITTED_S:
            return False
        # Who waits for a slot waits for no limiter.
        return (
            self.calls_in_flight >= self._limits.calls_in_flight or self._undecided < MOST_UNDECIDED
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

    def _stop_run(self, run_id: str) -> None:
        for work in self._working:
            if work.batch.run_id == run_id:
                work.stop()

    async def process(self, batch: Batch) -> dict[str, Outcome]:
        """The outcomes of a batch by digest; a digest without one goes back to the queue.

        That of a run in ``held_runs`` is left to its client. After the soft limit no call begins; at the hard limit those on the wire are cancelled. What
        was answered is written before this returns, even if that takes longer.

        Raises:
            StoreUnavailable: whether the run is held cannot be told.
        """
        if await self.held_runs.hold_still(batch.run_id):
            return {}
        loop = asyncio.get_running_loop()
        structlog.contextvars.bind_contextvars(run=batch.run_id, task=batch.task_id)
        work = _Work(batch, is_stopping=self._is_draining)
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

    async def _process(self, work: _Work) -> dict[str, Outcome]:
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
        self, work: _Work, chunks: dict[str, Chunk], claims: Claims, joined: Sequence[Promised]
    ) -> dict[str, Outcome]:
        """The outcomes of what is known, claimed here, or promised to another batch."""
        # A digest whose outcome is written may be claimed anew before the last one here is.
        promised = self.promises.of(claims.claimed)
        work.spent |= claims.spent
        try:
            await self._tell(work, claims.known)
            generated, found = await asyncio.gather(
                self._generate(work, {digest: chunks[digest] for digest in claims.claimed}),
                self._join(work, joined),
            )
        finally:
            # Also after a defect: a claim that is renewed for nothing keeps everybody from its chunk.
            left = [digest for digest, future in promised.items() if not future.done()]
            await self.promises.give_up(left, work.spent, work.batch.run_id)
        return claims.known | generated | found

    async def _join(self, work: _Work, promised: Sequence[Promised]) -> dict[str, Outcome]:
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

    async def _tell(self, work: _Work, digests: Iterable[str]) -> None:
        """Let the run know of outcomes that were generated for another."""
        await self.recorder.record(*[Notice(digest, work.batch.run_id) for digest in digests])

    async def _generate(self, work: _Work, chunks: dict[str, Chunk]) -> dict[str, Outcome]:
        """Ask for claimed chunks, so many in a prompt; those handed back are not in the result."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._ask(work, prompt, together(work.spent, prompt)))
                for prompt in prompts(chunks, work.batch.config.batch_chunks, work.spent)
            ]
        return {outcome.digest: outcome for task in asked for outcome in task.result()}

    async def _ask(self, work: _Work, chunks: dict[str, Chunk], spent: Spent) -> list[Outcome]:
        """Ask one prompt, on which so much was spent before, and write what came of it."""
        prompt = Prompt(
            tuple(chunks.values()),
            work.batch.config,
            work.batch.model,
            usage=spent.usage,
            calls=spent.calls,
            # Those that failed together have one attempt left alone.
            attempts=min(spent.attempts, ATTEMPTS - 1),
            paying_run=work.batch.run_id if work.batch.is_budgeted else None,
            is_stopping=work.is_stopping,
        )
        structlog.contextvars.bind_contextvars(chunks=[c.chunk_id for c in chunks.values()])
        work.prompts.append(prompt)
        outcomes: list[Outcome] = []
        alone: Sequence[str] = ()
        try:
            answer = await self._ladder.ask(prompt)
        except HandedBack:
            if prompt.calls > spent.calls:
                work.spent |= shares(chunks, prompt)
            return []
        except CallError as error:
            if len(chunks) > 1:
                log.info("chunks_asked_alone", reason=error.reason)
                alone = tuple(chunks)
            else:
                outcomes.append(_dead(next(iter(chunks)), error))
        else:
            answered = _outcomes(tuple(chunks), answer)
            outcomes = [outcome for outcome in answered if outcome is not None]
            alone = [d for d, o in zip(chunks, answered, strict=True) if o is None]
        finally:
            work.prompts.remove(prompt)
        if outcomes:
            cost = {"usage": prompt.usage, "calls": prompt.calls}
            outcomes[0] = outcomes[0].model_copy(update=cost)
        carried = shares(alone, prompt, is_charged=bool(outcomes))
        work.spent |= carried
        outcomes = await self._write(work, prompt, outcomes)
        for digest, share in carried.items():
            outcomes += await self._ask(work, {digest: chunks[digest]}, share)
        return outcomes

    async def _write(
        self, work: _Work, prompt: Prompt, outcomes: Sequence[Outcome]
    ) -> list[Outcome]:
        """Store the outcomes of a prompt as this run's; returns them as they are stored."""
        run_id = work.batch.run_id
        stamped = [outcome.model_copy(update={"run_id": run_id}) for outcome in outcomes]
        notices = [Notice(o.digest, run_id, o, _letter(work.batch, prompt, o)) for o in stamped]
        await self.recorder.record(*notices)
        for outcome in stamped:
            self.promises.keep(outcome)
        self.chunks_done += len(stamped)
        return stamped


def _dead(digest: str, error: CallError) -> Outcome:
    detail = logs.redact(str(error))[:LONGEST_DETAIL]
    log.warning("chunk_dead", digest=digest, reason=error.reason, error=detail)
    return Outcome(digest=digest, kind="dead", reason=error.reason, detail=detail)


def _letter(batch: Batch, prompt: Prompt, outcome: Outcome) -> DeadLetter | None:
    """The dead letter of an outcome; a chunk that dies was asked alone."""
    if outcome.kind != "dead":
        return None
    (chunk,) = prompt.chunks
    return letter_of(
        outcome, chunk, batch.config, batch.model, queue=batch.queue, attempts=prompt.attempts
    )


def _outcomes(digests: Sequence[str], answer: Answer) -> list[Outcome | None]:
    """One outcome for each chunk asked; None for one that a shared answer forgot."""
    outcomes: list[Outcome | None] = []
    for place, (digest, pairs, dropped) in enumerate(
        zip(digests, answer.pairs, answer.dropped, strict=True)
    ):
        if place in answer.missing and len(digests) > 1:
            outcomes.append(None)
        elif pairs:
            outcomes.append(Outcome(digest=digest, kind="ok", pairs=pairs, dropped=dropped))
        else:
            reason = "no_acceptable_pair"
            outcomes.append(Outcome(digest=digest, kind="rejected", reason=reason, dropped=dropped))
    return outcomes


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
