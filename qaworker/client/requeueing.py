"""Sends dead chunks again, exactly those, each to the queue and for the run it died in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import groupby
from typing import Final

from redis import Redis

from qaworker import keys
from qaworker.client.driver import CHUNKS_PER_TASK
from qaworker.client.senders import publish
from qaworker.engine.batches import Batch
from qaworker.limits.budget import state
from qaworker.llm.addresses import outcome_digest
from qaworker.models import Chunk, GenerationConfig
from qaworker.store.connections import now_s
from qaworker.store.dead_letters import UNREADABLE, DeadLetter, DeadLetters
from qaworker.store.reopening import reopen

# Of the ledger's mark when no message is sent: the run's own command sends at once.
UNSENT: Final = 0.0


@dataclass(slots=True)
class Requeued:
    """What became of letters, counted in chunks."""

    sent: int = 0
    unsent: int = 0
    """Of runs without workers: their command, given again, makes the calls."""
    refused: Counter[str] = field(default_factory=Counter)
    """Letters that stay, by why."""


@dataclass(frozen=True, slots=True)
class _Sendable:
    letter: DeadLetter
    chunk: Chunk
    config: GenerationConfig

    @property
    def of(self) -> tuple[str, str, str, str]:
        """What the chunks of one message share."""
        config = self.config.model_dump_json()
        return self.letter.queue, self.letter.run_id, self.letter.model, config


def requeue(redis: Redis, letters: Iterable[DeadLetter], keep: timedelta) -> Requeued:
    """Send the chunks of dead letters again, with all their attempts, and remove the letters.

    A client of the run that is at work, or is started again, takes the new outcomes.

    Args:
        redis: of outcomes and letters.
        letters: unreadable ones stay, as there is nothing to send.
        keep: for how long outcomes are kept.

    Raises:
        StoreUnavailable: Redis does not answer; what was not sent keeps its letter.
    """
    done = Requeued()
    store = DeadLetters(redis)
    for batch, queue, of in _batches(letters, done):
        now = now_s(redis)
        marked_at = now if queue else UNSENT
        is_budgeted = state(redis, batch.run_id).budget_micros is not None
        reopen(redis, batch.run_id, batch.digests, marked_at=marked_at, keep=keep)
        if queue:
            publish(replace(batch, is_budgeted=is_budgeted), queue, now)
            done.sent += len(of)
        else:
            done.unsent += len(of)
        # At last: a command that is killed before sends them once more, which claims make harmless.
        store.remove(of)
    return done


def _batches(
    letters: Iterable[DeadLetter], done: Requeued
) -> Iterator[tuple[Batch, str, list[DeadLetter]]]:
    """Messages to send with their queues and letters; what cannot be sent is counted."""
    sendable = [one for letter in letters if (one := _sendable(letter, done)) is not None]
    for (queue, run_id, model, _), group in groupby(
        sorted(sendable, key=lambda one: one.of), key=lambda one: one.of
    ):
        members = list(group)
        for start in range(0, len(members), CHUNKS_PER_TASK):
            part = members[start : start + CHUNKS_PER_TASK]
            of = [one.letter for one in part]
            chunks = tuple(one.chunk for one in part)
            digests = tuple(letter.digest for letter in of)
            yield Batch(chunks, digests, part[0].config, model, run_id), queue, of


def _sendable(letter: DeadLetter, done: Requeued) -> _Sendable | None:
    if letter.chunk is None or letter.config is None:
        done.refused[UNREADABLE] += 1
    elif letter.queue not in {"", *keys.QUEUES}:
        done.refused["unknown queue"] += 1
    elif outcome_digest(letter.chunk, letter.config, letter.model) != letter.digest:
        # Its run waits for an outcome that no worker makes any more.
        done.refused["another version's prompt"] += 1
    else:
        return _Sendable(letter, letter.chunk, letter.config)
    return None
