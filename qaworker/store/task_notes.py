"""What a task that belongs to no run held, for the one who collects it by the task's id alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from redis import Redis

from qaworker import keys
from qaworker.models import Origin, Value
from qaworker.redis_errors import store_errors


class TaskNote(Value):
    """What a task held, or why it could not be read."""

    chunks: tuple[tuple[str, Origin], ...] = ()
    """The digest of each chunk, and where it comes from."""
    error: str = ""


class TaskNotes:
    """Notes in Redis; every method raises StoreUnavailable."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    def write(self, task_id: str, note: TaskNote, *, keep: timedelta) -> None:
        """Leave the note on a task that ended."""
        with store_errors():
            self._redis.set(keys.task(task_id), note.model_dump_json(), ex=keep)

    def read(self, task_ids: Sequence[str]) -> dict[str, TaskNote]:
        """The notes of those tasks that ended, by id."""
        if not task_ids:
            return {}
        with store_errors():
            blobs = self._redis.mget([keys.task(task_id) for task_id in task_ids])
        return {
            task_id: TaskNote.model_validate_json(blob)
            for task_id, blob in zip(task_ids, blobs, strict=True)
            if blob is not None
        }
