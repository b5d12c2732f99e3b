"""Signs of life: what each worker process last said of itself, read without asking it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from redis import Redis

from qaworker import keys
from qaworker.store.connections import store_errors

BEAT_INTERVAL_S = 5.0
# Three beats: a worker that missed that many does not answer.
FRESH_S = 15.0
_FORGET = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Beat:
    """One worker process."""

    name: str
    pid: int
    pool: str
    started_at: float
    calls_in_flight: int
    chunks_done: int
    held: str = ""
    """Why it calls nobody, while its account is broken."""


def _now_s(redis: Any) -> float:
    seconds, microseconds = redis.time()
    return float(seconds) + float(microseconds) / 1e6


def beat(redis: Redis, state: Beat) -> None:
    """Say that a worker lives.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with store_errors():
        now = _now_s(redis)
        with redis.pipeline(transaction=True) as pipe:
            pipe.zadd(keys.heartbeats(), {state.name: now})
            pipe.zremrangebyscore(keys.heartbeats(), "-inf", now - _FORGET.total_seconds())
            pipe.set(keys.worker(state.name), json.dumps(asdict(state)), ex=_FORGET)
            pipe.execute()


def forget(redis: Redis, name: str) -> None:
    """Remove a worker that ended in order.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with store_errors():
        redis.zrem(keys.heartbeats(), name)
        redis.delete(keys.worker(name))


def living(redis: Any) -> list[Beat]:
    """Workers whose last beat is fresh, by name.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    with store_errors():
        names = redis.zrangebyscore(keys.heartbeats(), _now_s(redis) - FRESH_S, "+inf")
        blobs = redis.mget([keys.worker(name.decode()) for name in names]) if names else []
    return sorted(
        (Beat(**json.loads(blob)) for blob in blobs if blob is not None), key=lambda b: b.name
    )
