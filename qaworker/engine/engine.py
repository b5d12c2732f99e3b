"""The engine: batches in, outcomes in Redis; one per process, on one event loop.

A batch's chunks are claimed, asked (at most ``calls_in_flight`` at once over all batches), and
their outcomes written before the batch returns. Two batches of a process that hold the same chunk
share one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import structlog

from qaworker import logs
from qaworker.engine.batches import Batch
from qaworker.engine.gate import Gate
from qaworker.engine.ladder import Generator, HandedBack, Ladder, Prompt
from qaworker.engine.recorder import Recorder
from qaworker.errors import CallError, HaltError, StoreUnavailable
from qaworker.llm.generator import Answer
from qaworker.models import Chunk, Outcome, Usage
from qaworker.store.outcomes import CLAIM_TTL, Claims, Notice, OutcomeStore

log = logs.get(__name__)

_NOTHING = Usage()
RETRY_S = 1.0
# Four renewals fit into a term.
RENEW_S = CLAIM_TTL.total_seconds() / 4
LONGEST_DETAIL = 300


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds an engine; durations in seconds."""

    calls_in_flight: int
    call_timeout_s: float
    soft_limit_s: float
    hard_limit_s: float


@dataclass(slots=True, eq=False)
class _Work:
    """A batch on its way."""

    batch: Batch
    is_stopping: bool = False
    prompts: list[Prompt] = field(default_factory=list)

    def stop(self) -> None:
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.stop()

    def abort(self) -> None:
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.abort()


class Engine:
    """Generates outcomes; make one with :func:`running`."""

    def __init__(self, generator: Generator, store: OutcomeStore, limits: Limits) -> None:
        self._limits = limits
        self._store = store
        self._gate = Gate()
        self._ladder = Ladder(
            generator,
            self._gate,
            calls_in_flight=limits.calls_in_flight,
            call_timeout_s=limits.call_timeout_s,
        )
        self.recorder = Recorder(store)
        self._working: set[_Work] = set()
        self._mine: dict[str, asyncio.Future[Outcome | None]] = {}
        """What this process is generating; None is the result of a chunk handed back."""
        self._is_draining = False
        self.chunks_done = 0

    @property
    def calls_in_flight(self) -> int:
        """Calls on the wire now."""
        return self._ladder.calls_in_flight

    @property
    def halted_by(self) -> HaltError | None:
        """Why nobody calls, while the account is broken."""
        return self._gate.halted_by

    def drain(self) -> None:
        """Finish the calls on the wire, hand everything else back, and take nothing new."""
        self._is_draining = True
        for work in self._working:
            work.stop()

    async def process(self, batch: Batch) -> dict[str, Outcome]:
        """The outcomes of a batch by digest; a digest without one goes back to the queue.

        After the soft limit no call begins; at the hard limit those on the wire are cancelled. What
        was answered is written before this returns, even if that takes longer.
        """
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

    async def hold_claims(self) -> None:
        """Renew what this process has claimed, until cancelled."""
        while True:
            await asyncio.sleep(RENEW_S)
            while self._mine:
                try:
                    await self._store.renew(tuple(self._mine))
                except StoreUnavailable as error:
                    log.warning("claims_not_renewed", claims=len(self._mine), error=str(error))
                    await asyncio.sleep(RETRY_S)
                else:
                    break

    async def _process(self, work: _Work) -> dict[str, Outcome]:
        outcomes: dict[str, Outcome] = {}
        chunks = work.batch.by_digest()
        while chunks and not work.is_stopping:
            # The futures, as a digest is forgotten when its call ends, which may be while we claim.
            joined = [self._mine[digest] for digest in chunks if digest in self._mine]
            claims = await self._claim([d for d in chunks if d not in self._mine], work)
            await self.recorder.record(*[Notice(d, work.batch.run_id) for d in claims.known])
            outcomes |= claims.known
            claimed = {digest: chunks[digest] for digest in claims.claimed}
            for found in await asyncio.gather(
                self._generate(work, claimed), self._join(work, joined)
            ):
                outcomes |= found
            for digest in outcomes:
                chunks.pop(digest, None)
            if claims.busy and not work.is_stopping:
                await asyncio.sleep(RETRY_S)
        return outcomes

    async def _claim(self, digests: Sequence[str], work: _Work) -> Claims:
        while digests and not work.is_stopping:
            try:
                claims = await self._store.claim(digests, work.batch.run_id)
            except StoreUnavailable as error:
                log.warning("chunks_wait_for_redis", chunks=len(digests), error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                for digest in claims.claimed:
                    self._mine[digest] = asyncio.get_running_loop().create_future()
                return claims
        return Claims({}, (), ())

    async def _join(
        self, work: _Work, futures: Sequence[asyncio.Future[Outcome | None]]
    ) -> dict[str, Outcome]:
        """Wait for what another batch of this process is generating."""
        pending = set(futures)
        results: list[Outcome | None] = []
        while pending and not work.is_stopping:
            done, pending = await asyncio.wait(pending, timeout=RETRY_S)
            results.extend(future.result() for future in done)
        found = {outcome.digest: outcome for outcome in results if outcome is not None}
        await self.recorder.record(*[Notice(digest, work.batch.run_id) for digest in found])
        return found

    async def _generate(self, work: _Work, chunks: dict[str, Chunk]) -> dict[str, Outcome]:
        """Ask for claimed chunks, so many in a prompt; those handed back are not in the result."""
        # A digest whose outcome is written may be claimed anew before the last one here is.
        promised = {digest: self._mine[digest] for digest in chunks}
        try:
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(self._ask(work, prompt))
                    for prompt in _prompts(chunks, work.batch.config.batch_chunks)
                ]
        finally:
            # Also after a defect: a claim that is renewed for nothing keeps everybody from its chunk.
            await self._give_up([d for d, future in promised.items() if not future.done()])
        return {outcome.digest: outcome for task in asked for outcome in task.result()}

    async def _give_up(self, digests: Sequence[str]) -> None:
        """Let others claim what was claimed here and has no outcome."""
        if digests:
            with suppress(StoreUnavailable):  # claims expire by themselves
                await self._store.release(digests)
            for digest in digests:
                self._mine.pop(digest).set_result(None)

    async def _ask(
        self, work: _Work, chunks: dict[str, Chunk], *, usage: Usage = _NOTHING, calls: int = 0
    ) -> list[Outcome]:
        """Ask one prompt and write what came of it; ``usage`` and ``calls`` were spent before."""
        prompt = Prompt(
            tuple(chunks.values()), work.batch.config, work.batch.model, usage=usage, calls=calls
        )
        prompt.is_stopping = work.is_stopping
        structlog.contextvars.bind_contextvars(chunks=[c.chunk_id for c in chunks.values()])
        work.prompts.append(prompt)
        outcomes: list[Outcome] = []
        alone: Sequence[str] = ()
        try:
            answer = await self._ladder.ask(prompt)
        except HandedBack:
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
        spent: dict[str, Any] = {"usage": prompt.usage, "calls": prompt.calls}
        if outcomes:
            outcomes[0] = outcomes[0].model_copy(update=spent)
            spent = {}
        outcomes = await self._write(work, outcomes)
        for digest in alone:
            outcomes += await self._ask(work, {digest: chunks[digest]}, **spent)
            spent = {}
        return outcomes

    async def _write(self, work: _Work, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Store outcomes as this run's; returns them as they are stored."""
        run_id = work.batch.run_id
        stamped = [outcome.model_copy(update={"run_id": run_id}) for outcome in outcomes]
        await self.recorder.record(*[Notice(o.digest, run_id, o) for o in stamped])
        for outcome in stamped:
            self._mine.pop(outcome.digest).set_result(outcome)
        self.chunks_done += len(stamped)
        return stamped


def _prompts(chunks: dict[str, Chunk], size: int) -> Iterator[dict[str, Chunk]]:
    """Chunks that share a prompt: up to ``size`` neighbours of one language."""
    for _, run in groupby(chunks.items(), key=lambda item: item[1].language):
        while prompt := dict(islice(run, size)):
            yield prompt


def _dead(digest: str, error: CallError) -> Outcome:
    detail = logs.redact(str(error))[:LONGEST_DETAIL]
    log.warning("chunk_dead", digest=digest, reason=error.reason, error=detail)
    return Outcome(digest=digest, kind="dead", reason=error.reason, detail=detail)


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
    generator: Generator, store: OutcomeStore, limits: Limits
) -> AsyncIterator[Engine]:
    """An engine with its background tasks, on the running loop."""
    engine = Engine(generator, store, limits)
    tasks = [asyncio.create_task(work) for work in (engine.hold_claims(), engine.recorder.run())]
    try:
        yield engine
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
