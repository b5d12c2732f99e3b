"""What operators want of the worker processes: how many a host is to run, and which stay quiet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import Redis

from qaworker import keys
from qaworker.redis_errors import store_errors


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
    """Let workers take nothing new, within a beat; raises StoreUnavailable.

    It outlasts the processes: one that takes the place of another is quiet like it.
    """
    with store_errors():
        redis.sadd(keys.quiet(), *names)


def is_quiet(redis: Redis, name: str) -> bool:
    """Whether a worker is to take nothing new; raises StoreUnavailable."""
    with store_errors():
        return bool(redis.sismember(keys.quiet(), name))


def resume(redis: Redis, names: Iterable[str]) -> None:
    """Let workers take messages again, within a beat; raises StoreUnavailable."""
    with store_errors():
        redis.srem(keys.quiet(), *names)


def resume_all_on(redis: Any, host: str) -> None:
    """Let every worker of a host take messages again; raises StoreUnavailable."""
    with store_errors():
        quiet = redis.smembers(keys.quiet())
    if here := [name for name in quiet if name.decode().endswith(f"@{host}")]:
        resume(redis, here)
