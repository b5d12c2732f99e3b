"""Asks for claimed chunks, prompt by prompt, and writes what came of each."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from qaworker import logs
from qaworker.engine.ladder import Ladder
from qaworker.engine.promises import Promises
from qaworker.engine.prompt import HandedBack, Prompt
from qaworker.engine.recorder import Recorder
from qaworker.engine.sharing import prompts, shares, together
from qaworker.engine.verdicts import dead, letter, outcomes_of
from qaworker.engine.work import Work
from qaworker.errors import CallError
from qaworker.models import Chunk, Outcome
from qaworker.store.outcomes import Notice, Spent

log = logs.get(__name__)


class Asking:
    """All prompts of a process; belongs to one event loop."""

    def __init__(self, ladder: Ladder, recorder: Recorder, promises: Promises) -> None:
        self._ladder = ladder
        self._recorder = recorder
        self._promises = promises
        self.chunks_done = 0
        """Outcomes this process has written."""

    async def generate(self, work: Work, chunks: dict[str, Chunk]) -> dict[str, Outcome]:
        """Ask for claimed chunks, so many in a prompt; those handed back are not in the result."""
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._ask(work, prompt, together(work.spent, prompt)))
                for prompt in prompts(
                    chunks, work.batch.config.batch_chunks, work.spent, work.deaths
                )
            ]
        return {outcome.digest: outcome for task in asked for outcome in task.result()}

    async def _ask(self, work: Work, chunks: dict[str, Chunk], spent: Spent) -> list[Outcome]:
        """Ask one prompt, on which so much was spent before, and write what came of it."""
        prompt = Prompt(
            tuple(chunks.values()),
            work.batch.config,
            work.batch.model,
            usage=spent.usage,
            calls=spent.calls,
            digests=tuple(chunks),
            run_id=work.batch.run_id,
            deaths=max(work.deaths.get(digest, 0) for digest in chunks),
            attempts=spent.attempts,
            probes=spent.probes,
            failing_since_s=asyncio.get_running_loop().time() if spent.attempts else None,
            was_truncated=spent.was_truncated,
            repair=spent.repair,
            paying_run=work.paying_run,
            is_stopping=work.is_stopping,
        )
        structlog.contextvars.bind_contextvars(chunks=[c.chunk_id for c in chunks.values()])
        work.prompts.append(prompt)
        outcomes: list[Outcome] = []
        alone: Sequence[str] = ()
        try:
            answer = await self._ladder.ask(prompt)
        except HandedBack:
            # Whatever the cause, what is left of the batch is not to be claimed and asked here again.
            work.stop()
            if prompt.calls > spent.calls:
                work.spent |= shares(chunks, prompt)
            return []
        except CallError as error:
            if len(chunks) > 1:
                log.info("chunks_asked_alone", reason=error.reason)
                alone = tuple(chunks)
            else:
                outcomes.append(dead(next(iter(chunks)), error))
        else:
            answered = outcomes_of(tuple(chunks), answer)
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
        self, work: Work, prompt: Prompt, outcomes: Sequence[Outcome]
    ) -> list[Outcome]:
        """Store the outcomes of a prompt as this run's; returns them as they are stored."""
        run_id = work.batch.run_id
        stamped = [outcome.model_copy(update={"run_id": run_id}) for outcome in outcomes]
        notices = [Notice(o.digest, run_id, o, letter(work.batch, prompt, o)) for o in stamped]
        await self._recorder.record(*notices)
        for outcome in stamped:
            self._promises.keep(outcome)
        self.chunks_done += len(stamped)
        return stamped
