"""Signs of life: what each worker process last said of itself, read without asking it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from redis import Redis

from qaworker import keys
from qaworker.redis_errors import left_out, store_errors
from qaworker.store.connections import now_s

BEAT_INTERVAL_S = 5.0
# Three beats: a worker that missed that many does not answer.
FRESH_S = 15.0
_FORGET = timedelta(days=1)
_FAREWELL_TTL = timedelta(hours=1)

M = TypeVar("M", bound=BaseModel)


class Beat(BaseModel):
    """One worker process.

    While hosts are upgraded one after the other, versions read each other's beats: what a version
    does not know it ignores, and what is missing has a default. One that cannot be read at all is
    left out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    pid: int
    owner: str = "none"
    """``systemd``, ``supervisor``, ``pid`` or ``none``."""
    account: str = ""
    """Whose calls it makes; see :func:`qaworker.llm.addresses.account`."""
    api: str = ""
    """The address of the API that it calls."""
    pool: str = ""
    version: str = ""
    started_at: float | None = None
    """Seconds since the epoch, by its host's clock."""
    memory_mib: float = 0.0
    log_level: str = ""
    state: str = "consuming"
    """``consuming``, ``quiet`` or ``draining``."""
    tasks: int = 0
    """Held, under way."""
    oldest_task_s: float = 0.0
    tasks_done: int = 0
    calls_in_flight: int = 0
    """Of no meaning where :attr:`tells_calls` is not so."""
    calls_waiting: int = 0
    """For the limiter, or for a free slot."""
    oldest_wait_s: float = 0.0
    chunks_done: int = 0
    held: str = ""
    """Why it calls nobody, while its account is broken."""

    @property
    def tells_calls(self) -> bool:
        """Whether it knows of its calls: the children of a prefork pool make theirs by themselves."""
        return self.pool != "prefork"

    @property
    def host(self) -> str:
        """The part of its name after the @."""
        return self.name.partition("@")[2]

    @property
    def number(self) -> int:
        """The N of ``qa_worker-N@HOST``; 0 for a name of another form."""
        number = self.name.partition("@")[0].rpartition("-")[2]
        return int(number) if number.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker that did not say goodbye, and how long ago it beat."""

    beat: Beat
    age_s: float
    at_s: float
    """When it beat, in seconds since the epoch by the clock of Redis."""

    @property
    def is_living(self) -> bool:
        """Whether its last beat is fresh."""
        return self.age_s <= FRESH_S


class Farewell(BaseModel):
    """What became of the tasks a worker held when it was told to end."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    finished: int
    handed_back: int


def _read(model: type[M], name: str, blob: bytes) -> M | None:
    try:
        return model.model_validate_json(blob)
    except ValidationError:
        left_out(model.__name__.lower(), name)
        return None


def beat(redis: Redis, state: Beat) -> bool:
    """Say that a worker lives; returns whether it is told to be quiet.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with store_errors():
        now = now_s(redis)
        with redis.pipeline(transaction=True) as pipe:
            pipe.zadd(keys.heartbeats(), {state.name: now})
            pipe.zremrangebyscore(keys.heartbeats(), "-inf", now - _FORGET.total_seconds())
            pipe.set(keys.worker(state.name), state.model_dump_json(), ex=_FORGET)
            pipe.sismember(keys.quiet(), state.name)
            *_, is_to_be_quiet = pipe.execute()
    return bool(is_to_be_quiet)


def forget(redis: Redis, name: str, farewell: Farewell | None = None) -> None:
    """Remove a worker that ended; what it says at last is kept for an hour.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with store_errors(), redis.pipeline(transaction=True) as pipe:
        pipe.zrem(keys.heartbeats(), name)
        pipe.delete(keys.worker(name))
        if farewell is not None:
            pipe.set(keys.farewell(name), farewell.model_dump_json(), ex=_FAREWELL_TTL)
        pipe.execute()


def greet(redis: Redis, name: str) -> None:
    """Forget what a predecessor of this name said at last; raises StoreUnavailable."""
    with store_errors():
        redis.delete(keys.farewell(name))


def farewell(redis: Any, name: str) -> Farewell | None:
    """What a worker said at last, unless it was killed or cannot be read; raises StoreUnavailable."""
    with store_errors():
        blob = redis.get(keys.farewell(name))
    return None if blob is None else _read(Farewell, name, blob)


def seen(redis: Any) -> list[Seen]:
    """The workers of the last day that did not say goodbye, by name; raises StoreUnavailable."""
    with store_errors():
        now = now_s(redis)
        scores = redis.zrange(keys.heartbeats(), 0, -1, withscores=True)
        blobs = redis.mget([keys.worker(name.decode()) for name, _ in scores]) if scores else []
    found = [
        Seen(beat, now - at, at)
        for (name, at), blob in zip(scores, blobs, strict=True)
        if blob is not None and (beat := _read(Beat, name.decode(), blob)) is not None
    ]
    return sorted(found, key=lambda one: one.beat.name)


def calling_another(beats: Iterable[Beat], api: str) -> Beat | None:
    """A worker that calls another API than this one, as far as it says which."""
    return next((beat for beat in beats if beat.api not in {"", api}), None)


def living(redis: Any) -> list[Beat]:
    """Workers whose last beat is fresh, by name; raises StoreUnavailable."""
    return [one.beat for one in seen(redis) if one.is_living]
