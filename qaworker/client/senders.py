"""Where a run's chunks are sent; here, to the workers' queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Protocol

from kombu.exceptions import OperationalError
from redis import Redis

from qaworker import keys
from qaworker.app import BUDGET_HEADER, RUN_HEADER, SENT_HEADER, app
from qaworker.engine.batches import Batch
from qaworker.errors import StoreUnavailable
from qaworker.models import Priority
from qaworker.redis_errors import store_errors
from qaworker.store.outcomes import OutcomeReader

BATCH_TASK: Final = "qaworker.tasks.generate_qa_for_batch_async"
QUEUE_OF: Final[dict[Priority | None, str]] = {
    None: keys.DEFAULT_QUEUE,
    "high": "high_priority",
    "normal": "normal_priority",
    "low": "low_priority",
}
# All a worker needs; where a chunk comes from stays with the client.
_SENT_FIELDS: Final = {"chunk_id", "text", "language", "pairs_wanted", "tokens"}


class Sender(Protocol):
    """Takes batches of a run."""

    def room(self) -> int:
        """How many batches may be sent now."""

    def send(self, batch: Batch, sent_at: float) -> None:
        """Send one batch; ``sent_at`` is the time its chunks were marked with."""

    def lost(self, sent: Sequence[tuple[str, float]]) -> list[str]:
        """Those of ``sent`` (digest and time) that nobody has: no queue, and no process.

        A digest may be named although a process is about to claim it; sending it again is
        harmless, as claims admit one call.
        """


def publish(batch: Batch, queue: str, sent_at: float) -> str:
    """Put a batch into a queue; returns the task's id.

    Args:
        batch: what the task carries.
        queue: the name of the queue.
        sent_at: when its sender noted that it is sent, by the clock of Redis: a later time
            would make the oldest message look younger than its own chunks.

    Raises:
        StoreUnavailable: the queue's Redis does not answer.
    """
    chunks = [chunk.model_dump(include=_SENT_FIELDS) for chunk in batch.chunks]
    config = batch.config.model_dump(exclude_defaults=True)
    headers = {RUN_HEADER: batch.run_id, SENT_HEADER: sent_at}
    if batch.is_budgeted:
        headers[BUDGET_HEADER] = True
    try:
        result = app.send_task(
            BATCH_TASK,
            args=(chunks, config, batch.model),
            queue=queue,
            headers=headers,
            # Celery's own would put the text of the chunks into `inspect` and events.
            argsrepr=f"({len(chunks)} chunks)",
        )
    except (OperationalError, OSError) as error:
        raise StoreUnavailable(
            f"Redis does not answer ({error}): start it, or correct REDIS_URL or CELERY_BROKER_URL"
        ) from error
    return str(result.id)


class QueueSender:
    """Keeps a small number of tasks ready in a queue; workers take them from there."""

    def __init__(
        self, broker: Redis, reader: OutcomeReader, queue: str, *, ready_tasks: int | None
    ) -> None:
        self._broker: Any = broker
        self._reader = reader
        self._queue = queue
        self._ready_tasks = ready_tasks
        """None sends all at once."""

    def room(self) -> int:
        """How many tasks are missing from the number that is kept ready."""
        if self._ready_tasks is None:
            return 1024
        with store_errors():
            return max(0, self._ready_tasks - int(self._broker.llen(keys.queue(self._queue))))

    def send(self, batch: Batch, sent_at: float) -> None:
        """Publish one task."""
        publish(batch, self._queue, sent_at)

    def lost(self, sent: Sequence[tuple[str, float]]) -> list[str]:
        """Digests sent before the oldest message that waits, and claimed by nobody.

        Queues are first in, first out, so what was sent before the oldest waiting message is not
        waiting, with one exception: a message that was handed back stands last with its old time.
        """
        oldest = self._oldest()
        gone = [digest for digest, sent_at in sent if oldest is None or sent_at < oldest]
        claimed = self._reader.claimed(gone)
        return [digest for digest in gone if digest not in claimed]

    def _oldest(self) -> float | None:
        with store_errors():
            message = self._broker.lindex(keys.queue(self._queue), -1)
        if message is None:
            return None
        try:
            return float(json.loads(message)["headers"].get(SENT_HEADER, 0.0))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return 0.0  # unreadable: until a worker puts it aside, nothing is known to be lost
