"""What operators want of the worker processes: how many a host is to run, and which stay quiet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import Redis

from qaworker import keys
from qaworker.store.connections import store_errors


def expect(redis: Redis, host: str, workers: int) -> None:
    """Record how many worker processes are to run on a host; raises StoreUnavailable."""
    with store_errors():
        redis.hset(keys.expected(), host, str(workers))


def expected(redis: Any) -> dict[str, int]:
    """Worker processes that are to run, by host where that is a number; raises StoreUnavailable."""
    with store_errors():
        hosts = redis.hgetall(keys.expected())
    return {host.decode(): int(workers) for host, workers in hosts.items() if workers.isdigit()}


def make_quiet(redis: Redis, names: Iterable[str]) -> None:
    """Let workers take nothing new, within a beat; raises StoreUnavailable."""
    with store_errors():
        redis.sadd(keys.quiet(), *names)


def resume(redis: Redis, names: Iterable[str]) -> None:
    """Let workers take messages again, within a beat; raises StoreUnavailable."""
    with store_errors():
        redis.srem(keys.quiet(), *names)
