"""Gathers what is running in under a second.

Nothing is broadcast: what a worker said with its last heartbeat stands in Redis, and what its owner
says of it is asked here. Neither waits for a worker that hangs.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from gettext import gettext as _
from typing import Final

from redis import Redis

from qaworker.errors import ConfigError, OwnerError, StoreUnavailable
from qaworker.limits.states import limiter_states
from qaworker.owners import choosing, memory, processes
from qaworker.owners.owner import Owned, Owner
from qaworker.settings import Settings
from qaworker.status.picture import RECENTLY, Shared, Status, Worker
from qaworker.store import fleet, heartbeats, holds, overview
from qaworker.store.connections import connect, now_s
from qaworker.store.dead_letters import DeadLetters
from qaworker.store.heartbeats import Beat, Seen
from qaworker.store.overview import Queue

REDIS_TIMEOUT_S: Final = 0.3
LOG_LINES: Final = 5


def gather(
    settings: Settings, find_owner: Callable[[Settings], Owner | None] = choosing.in_charge
) -> Status:
    """Ask Redis and the owner of this host's workers, at the same time."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        asked = pool.submit(_ask_owner, settings, find_owner)
        said = _ask_redis(settings)
        owns = asked.result()
    host = socket.gethostname()
    expected = dict(said.expected)
    recorded = expected.pop(host, None)
    if memory.recall(settings.runtime_dir).is_stop_untold:
        recorded = 0
    here = [seen for seen in said.seen if seen.beat.host == host]
    # The files of the last resort are gone after a boot; the others know what they are to run.
    forgotten = recorded or 0 if owns.name in {None, "pid"} else 0
    return Status(
        host=host,
        owner=owns.name,
        expected=owns.expected or forgotten,
        recorded=recorded,
        workers=_workers(owns, here, host),
        elsewhere=[_beating(seen) for seen in said.seen if seen.beat.host != host],
        expected_elsewhere=expected,
        queues=said.queues,
        shared=said.shared,
        latency_ms=said.latency_ms,
        redis_error=said.error,
        owner_error=owns.error,
        log_lines=owns.log_lines,
    )


def everywhere(settings: Settings) -> tuple[list[Worker], Shared]:
    """The workers of all hosts, by name, and what these share.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S) as redis:
        workers = [_beating(seen) for seen in heartbeats.seen(redis)]
        shared = _shared(redis, settings)
    host = socket.gethostname()
    return [_here(worker) if worker.host == host else worker for worker in workers], shared


def _shared(redis: Redis, settings: Settings) -> Shared:
    letters = DeadLetters(redis)
    return Shared(
        asked_at=now_s(redis),
        holds=holds.holds(redis),
        limiters=limiter_states(redis),
        dead_letters=letters.count(timedelta(days=settings.outcome_days)),
        dead_recently=letters.count(RECENTLY),
    )


@dataclass(slots=True)
class _Said:
    """What Redis says."""

    latency_ms: float | None = None
    seen: Sequence[Seen] = ()
    expected: dict[str, int] = field(default_factory=dict)
    queues: Sequence[Queue] = ()
    shared: Shared = field(default_factory=Shared)
    error: str = ""


def _ask_redis(settings: Settings) -> _Said:
    said = _Said()
    variable = "REDIS_URL"
    try:
        with connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S) as redis:
            said.latency_ms = overview.latency_ms(redis)
            said.seen = heartbeats.seen(redis)
            said.expected = fleet.expected(redis)
            said.shared = _shared(redis, settings)
        variable = "CELERY_BROKER_URL" if settings.broker_url else variable
        with connect(settings.broker_url or settings.redis_url, timeout_s=REDIS_TIMEOUT_S) as redis:
            said.queues = overview.queues(redis)
    except StoreUnavailable as error:
        said.error = _("{error}: start it, or correct {variable}").format(
            error=str(error.__cause__).rstrip("."), variable=variable
        )
    except ConfigError as error:
        said.error = str(error)
    return said


@dataclass(slots=True)
class _Owns:
    """What the owner says."""

    name: str | None = None
    expected: int = 0
    owned: Sequence[Owned] = ()
    log_lines: Sequence[str] = ()
    error: str = ""


def _ask_owner(settings: Settings, find_owner: Callable[[Settings], Owner | None]) -> _Owns:
    owns = _Owns()
    try:
        owner = find_owner(settings)
        if owner is not None:
            owns.name = owner.name
            owns.expected = owner.expected()
            owns.owned = owner.owned()
            owns.log_lines = _log_lines(owner)
    except OwnerError as error:
        owns.error = str(error)
    return owns


def _log_lines(owner: Owner) -> list[str]:
    try:
        return owner.log_lines(LOG_LINES)
    except OwnerError as error:
        # Not everybody may read the log; what runs is known all the same.
        return [str(error)]


def _workers(owns: _Owns, seen: Sequence[Seen], host: str) -> list[Worker]:
    """This host's workers by number: those of the owner, and those that beat without one."""
    by_number = {one.beat.number: one for one in seen}
    workers = []
    for owned in owns.owned:
        one = by_number.pop(owned.number, None)
        if one is not None and one.beat.pid == owned.pid:
            # It is its owner's, whatever mark it has.
            workers.append(replace(_beating(one), owner=owns.name or "none"))
        else:  # what a predecessor said is of no interest
            workers.append(
                Worker(
                    f"qa_worker-{owned.number}@{host}",
                    host,
                    owned.number,
                    owned.pid,
                    owns.name or "none",
                    owned.state,
                    exit_code=owned.exit_code if owned.state == "failed" else None,
                )
            )
    workers += [_here(_beating(one)) for one in by_number.values()]
    return sorted(workers, key=lambda worker: worker.number)


def _here(worker: Worker) -> Worker:
    """A worker of this host, where it is known whether a process is there."""
    return worker if processes.exists(worker.pid) else replace(worker, state="gone", pid=0)


def _beating(seen: Seen) -> Worker:
    beat: Beat = seen.beat
    return Worker(
        name=beat.name,
        host=beat.host,
        number=beat.number,
        pid=beat.pid,
        owner=beat.owner,
        state=beat.state if seen.is_living else "silent",
        uptime_s=None if beat.started_at is None else max(0.0, time.time() - beat.started_at),
        memory_mib=beat.memory_mib,
        heartbeat_age_s=seen.age_s,
        tasks=beat.tasks,
        oldest_task_s=beat.oldest_task_s,
        calls_in_flight=beat.calls_in_flight if beat.tells_calls else None,
        calls_waiting=beat.calls_waiting,
        oldest_wait_s=beat.oldest_wait_s,
        tasks_done=beat.tasks_done,
        chunks_done=beat.chunks_done,
        log_level=beat.log_level,
        held=beat.held,
        account=beat.account,
    )
