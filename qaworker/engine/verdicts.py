"""What an answer or an error makes of the chunks that were asked: outcomes, and dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qaworker import logs
from qaworker.engine.batches import Batch
from qaworker.engine.prompt import Prompt
from qaworker.errors import CallError
from qaworker.llm.generator import Answer
from qaworker.models import Outcome
from qaworker.store.dead_letters import DeadLetter, letter_of

log = logs.get(__name__)

LONGEST_DETAIL: Final = 300


def dead(digest: str, error: CallError) -> Outcome:
    """The outcome of a chunk that cannot succeed."""
    detail = logs.redact(str(error))[:LONGEST_DETAIL]
    log.warning("chunk_dead", digest=digest, reason=error.reason, error=detail)
    return Outcome(digest=digest, kind="dead", reason=error.reason, detail=detail)


def letter(batch: Batch, prompt: Prompt, outcome: Outcome) -> DeadLetter | None:
    """The dead letter of an outcome; a chunk that dies was asked alone."""
    if outcome.kind != "dead":
        return None
    (chunk,) = prompt.chunks
    return letter_of(
        outcome, chunk, batch.config, batch.model, queue=batch.queue, attempts=prompt.attempts
    )


def outcomes_of(digests: Sequence[str], answer: Answer) -> list[Outcome | None]:
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
