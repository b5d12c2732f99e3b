"""Cancels runs: their clients stop, and their waiting messages go; ledgers and outcomes stay."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from redis import Redis

from qaworker import keys
from qaworker.app import RUN_HEADER
from qaworker.client.driver import HEED_EVERY_S
from qaworker.redis_errors import store_errors
from qaworker.store.connections import now_s
from qaworker.store.database import Database, existing
from qaworker.store.holds import holds, release_for, run_of

# Some 3 MB of messages at a time.
PAGE: Final = 100
# Longer than any client takes to notice, and to be started again by somebody the next morning.
MARK_TTL: Final = timedelta(days=1)
UNREADABLE: Final = "unreadable"


@dataclass(slots=True)
class Waiting:
    """What waits in the queues, or waited there until it was removed."""

    messages: Counter[str] = field(default_factory=Counter)
    """By run; what was sent without one is a run of its own."""
    chunks: Counter[str] = field(default_factory=Counter)

    def add(self, run_id: str, chunks: int) -> None:
        """Count one message."""
        self.messages[run_id] += 1
        self.chunks[run_id] += chunks


def run_id_of(directory: Path) -> str:
    """The id of the run in a directory, which another command may be at work on.

    Raises:
        ConfigError: there is no run.
        RunDirectoryError: it cannot be read.
    """
    with closing(Database.open(existing(directory))) as database:
        ((run_id,),) = database.query("SELECT value FROM run WHERE name = 'run_id'")
    return str(run_id)


def waiting(broker: Redis, run_id: str | None) -> Waiting:
    """What waits of one run, or of all; raises StoreUnavailable."""
    found = Waiting()
    lists: Any = broker
    with store_errors():
        for queue in _lists():
            seen = 0
            while page := lists.lrange(queue, seen, seen + PAGE - 1):
                seen += len(page)
                for message in page:
                    of_run, chunks = _read(message)
                    if run_id in {None, of_run}:
                        found.add(of_run, chunks)
    return found


def delivered(broker: Redis, run_id: str | None) -> int:
    """Messages of one run, or of all, that workers hold or died with; raises StoreUnavailable."""
    hashes: Any = broker
    with store_errors():
        return sum(
            run_id in {None, _read(delivery, is_delivery=True)[0]}
            for _, delivery in hashes.hscan_iter(keys.unacked(), count=PAGE)
        )


def cancel(
    redis: Redis,
    broker: Redis,
    run_id: str | None,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Waiting:
    """Cancel one run, or all; returns what was removed.

    What workers hold runs to its end; what they cannot end, as while its model is held, they drop
    within their task's time limit. A run that workers held is held no more. A client that is at
    work on such a run ends with RunCancelled; one that is started later goes on with it.

    Raises:
        StoreUnavailable: Redis does not answer. Of what is removed nothing is lost: the run's
            ledger has it, and the same command goes on.
    """
    _mark(redis, run_id)
    # What its clients send until they notice is removed too.
    sleep(2 * HEED_EVERY_S)
    removal = _Removal(broker, run_id)
    with store_errors():
        for queue in _lists():
            removal.clear(queue)
    # What was sent before the mark counts as removed when the run goes on.
    _mark(redis, run_id)
    for hold in holds(redis):
        if run_id in {None, run_of(hold.scope)} and hold.kind == "run":
            release_for(redis, hold.scope, hold.reason)
    return removal.removed


def _mark(redis: Redis, run_id: str | None) -> None:
    with store_errors():
        redis.set(keys.cancelled(run_id), repr(now_s(redis)), ex=MARK_TTL)


def _lists() -> Iterator[str]:
    return (keys.queue(name, step) for name in keys.QUEUES for step in keys.PRIORITY_STEPS)


class _Removal:
    """Takes what waits of one run, or of all, out of lists that others add to and take from."""

    def __init__(self, broker: Any, run_id: str | None) -> None:
        self._broker = broker
        self._run_id = run_id
        self.removed = Waiting()

    def clear(self, queue: str) -> None:
        """Go through one list; clients add to its head, workers take from its tail.

        Redis finds a message by comparing it with all that stand before it, so each half is done
        from its own end. What workers take moves messages past a reader at the tail; a reader at
        the head misses none, and reads all.
        """
        half = self._broker.llen(queue) // 2
        kept = 0
        while kept < half and (page := self._broker.lrange(queue, -kept - PAGE, -kept - 1)):
            kept += len(page) - self._remove(queue, -1, page[::-1])
        kept = 0
        while page := self._broker.lrange(queue, kept, kept + PAGE - 1):
            kept += len(page) - self._remove(queue, 1, page)

    def _remove(self, queue: str, end: int, page: Sequence[bytes]) -> int:
        """Remove what is wanted of a page; returns how many messages went.

        Args:
            queue: the list.
            end: where Redis begins to look: 1 for the head, -1 for the tail.
            page: messages, the nearest to that end first.
        """
        wanted = []
        with self._broker.pipeline(transaction=False) as pipe:
            for message in page:
                run_id, chunks = _read(message)
                if self._run_id in {None, run_id}:
                    wanted.append((run_id, chunks))
                    pipe.lrem(queue, end, message)
            found = pipe.execute()
        for (run_id, chunks), is_there in zip(wanted, found, strict=True):
            if is_there:  # else a worker took it
                self.removed.add(run_id, chunks)
        return sum(found)


def _read(message: bytes, *, is_delivery: bool = False) -> tuple[str, int]:
    """The run of a message, and its chunks; what nobody can read is a run of its own."""
    try:
        parsed = json.loads(message)
        if is_delivery:
            parsed, _, _ = parsed  # with its exchange and queue
        args, kwargs, _ = json.loads(base64.b64decode(parsed["body"]))
        headers = parsed["headers"]
        run_id = str(headers.get(RUN_HEADER) or headers["id"])
        given = args[0] if args else kwargs.get("chunks")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return UNREADABLE, 0
    return run_id, len(given) if isinstance(given, list) else 1
