"""The Python functions: submit chunks to the workers, and collect their pairs."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from redis import Redis
from rich.console import Console
from rich.progress import Progress

from qaworker import logs, settings
from qaworker.client.driver import LOST_AFTER_S, RECONCILE_EVERY_S
from qaworker.client.senders import QUEUE_OF, QueueSender, publish
from qaworker.engine.batches import Batch, parse_batch
from qaworker.exports.rows import rows
from qaworker.models import GenerationConfig, Outcome, Priority
from qaworker.store.connections import connect, now_s
from qaworker.store.outcomes import OutcomeReader, settles
from qaworker.store.task_notes import TaskNote, TaskNotes

log = logs.get(__name__)

POLL_S: Final = 0.25


class Handle(Protocol):
    """A task that was sent; Celery's AsyncResult is one."""

    @property
    def id(self) -> str:
        """The task's id."""


@dataclass(frozen=True, slots=True)
class SubmittedTask:
    """A task that ``submit_parallel_qa_generation`` sent, with what it takes to send it again."""

    id: str
    batch: Batch = field(repr=False)
    queue: str
    sent_at: float
    """Seconds since the epoch, by the clock of Redis."""


class Collected(list[dict[str, Any]]):
    """Q/A pairs, one dictionary each, in the order of the tasks and their chunks."""

    def __init__(self) -> None:
        super().__init__()
        self.pending: list[Handle] = []
        """Tasks with chunks that have no outcome yet: pass them to ``collect_results`` later."""
        self.failed: dict[str, str] = {}
        """Why chunks (by chunk id) or whole tasks (by task id) gave no pair."""


def submit_parallel_qa_generation(
    chunks: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | GenerationConfig | None,
    model: str,
    batch_size: int = 3,
    *,
    priority: Priority | None = None,
) -> list[SubmittedTask]:
    """Enqueue chunks for the workers.

    Args:
        chunks: dictionaries with ``chunk_id`` and ``text``, and optionally the other fields of
            :class:`qaworker.models.Chunk`.
        config: see :class:`qaworker.models.GenerationConfig`; all fields are optional.
        model: the model's name.
        batch_size: chunks in one task.
        priority: which queue; the default queue stands between high and normal.

    Returns:
        Handles for :func:`collect_results`.

    Raises:
        MessageInvalid: a chunk or the configuration is not of this shape; nothing was sent.
        StoreUnavailable: Redis does not answer; what was sent before is in the queue.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    run_id = uuid.uuid4().hex
    values = settings.load()
    batches = [
        parse_batch(
            chunks[start : start + batch_size],
            config,
            model,
            base_url=values.openai_base_url,
            run_id=run_id,
        )
        for start in range(0, len(chunks), batch_size)
    ]
    queue = QUEUE_OF[priority]
    with connect(values.redis_url) as redis:
        now = now_s(redis)
    return [SubmittedTask(publish(b, queue, now), b, queue, now) for b in batches]


def collect_results(tasks: Iterable[Handle], timeout: float = 600) -> Collected:
    """Wait for tasks and return their Q/A pairs.

    Args:
        tasks: what ``submit_parallel_qa_generation`` returned, or results of ``.delay(...)``.
        timeout: seconds for the whole collection. What comes later stays collectable: its tasks are
            in ``pending`` of the result.

    Returns:
        Dictionaries with question, answer, question_type, source_chunk_id, doc_id, dataset_type,
        chunk_idx, difficulty, evidence and language. Chunks without a pair are logged and stand in
        ``failed``.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    values = settings.load()
    console = Console(stderr=True)
    with (
        connect(values.redis_url) as redis,
        connect(values.broker_url or values.redis_url) as broker,
        Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
    ):
        collection = _Collection(tasks, redis, broker)
        shown = bar.add_task("collecting", total=collection.size)
        give_up_at = time.monotonic() + timeout
        while True:
            collection.poll()
            bar.update(shown, completed=collection.size - len(collection.open))
            if not collection.open or time.monotonic() >= give_up_at:
                return collection.result()
            time.sleep(POLL_S)


class _Task:
    """A task under collection."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.id = handle.id
        self.run_id = handle.id
        self.note: TaskNote | None = None
        self.has_ended = False
        """Whether it said so itself: whatever outcomes there are then are its own, or as good."""
        self.is_cancelled = False
        """Whether its message was removed, and no process has it."""
        self.outcomes: dict[str, Outcome] = {}
        if isinstance(handle, SubmittedTask):
            self.run_id = handle.batch.run_id
            self.note = TaskNote(chunks=handle.batch.origins())

    @property
    def missing(self) -> list[str]:
        """Digests without an outcome."""
        chunks = self.note.chunks if self.note is not None else ()
        return [digest for digest, _ in chunks if digest not in self.outcomes]

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is to be expected."""
        return self.is_cancelled or (self.note is not None and not self.missing)

    def add_to(self, collected: Collected) -> None:
        """Put what there is into the result."""
        if not self.is_complete:
            collected.pending.append(self.handle)
        if self.note is None:
            return
        if self.is_cancelled:
            collected.failed[self.id] = "cancelled: submit it again"
            log.warning("task_cancelled", task=self.id)
        if self.note.error:
            collected.failed[self.id] = self.note.error
            log.error("task_failed", task=self.id, error=self.note.error)
        for digest, origin in self.note.chunks:
            outcome = self.outcomes.get(digest)
            if outcome is None:
                continue
            if outcome.kind != "ok":
                why = f"{outcome.kind}: {outcome.detail or outcome.reason}"
                collected.failed[origin.chunk_id] = why
                log.warning("chunk_without_pair", chunk=origin.chunk_id, why=why)
            collected.extend(row._asdict() for row in rows([(origin, outcome)]))


class _Collection:
    """Tasks on their way to a result."""

    def __init__(self, handles: Iterable[Handle], redis: Redis, broker: Redis) -> None:
        self._tasks = [_Task(handle) for handle in handles]
        self._reader = OutcomeReader(redis)
        self._notes = TaskNotes(redis)
        self._broker = broker
        self._reconcile_at = time.monotonic() + RECONCILE_EVERY_S

    @property
    def size(self) -> int:
        """Tasks there are."""
        return len(self._tasks)

    @property
    def open(self) -> list[_Task]:
        """Tasks that are not complete."""
        return [task for task in self._tasks if not task.is_complete]

    def poll(self) -> None:
        """Read what there is now."""
        unknown = {task.id: task for task in self._tasks if task.note is None}
        for id_, note in self._notes.read(list(unknown)).items():
            unknown[id_].note = note
            unknown[id_].has_ended = True
        missing = [(task, digest) for task in self.open for digest in task.missing]
        found = self._reader.fetch([digest for _, digest in missing])
        for task, digest in missing:
            outcome = found.get(digest)
            if outcome is not None and (task.has_ended or settles(outcome, task.run_id)):
                task.outcomes[digest] = outcome
        if time.monotonic() >= self._reconcile_at:
            self._reconcile_at = time.monotonic() + RECONCILE_EVERY_S
            now = self._reader.now_s()
            for task in self.open:
                self._send_again_if_lost(task, now)

    def _send_again_if_lost(self, task: _Task, now: float) -> None:
        handle = task.handle
        if not isinstance(handle, SubmittedTask) or handle.sent_at > now - LOST_AFTER_S:
            return
        sender = QueueSender(self._broker, self._reader, handle.queue, ready_tasks=None)
        if sender.lost([(digest, handle.sent_at) for digest in task.missing]):
            if self._reader.cancelled_at(task.run_id) >= handle.sent_at:
                task.is_cancelled = True
                return
            log.info("task_sent_again", task=task.id)
            sender.send(handle.batch, now)
            task.handle = replace(handle, sent_at=now)

    def result(self) -> Collected:
        """The pairs there are."""
        collected = Collected()
        for task in self._tasks:
            task.add_to(collected)
        return collected
