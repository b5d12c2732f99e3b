"""Connections to Redis, with the time limits every part uses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from redis import Redis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.retry import Retry

from qaworker import keys
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.redis_errors import store_errors

_RETRY_S: Final = 0.5
_SOCKET_TIMEOUT_S: Final = 30.0
_CONNECT_TIMEOUT_S: Final = 5.0
# Each pipelined write or claim borrows a connection for about a millisecond.
_ENGINE_CONNECTIONS: Final = 8


@contextmanager
def _address_errors() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ConfigError(f"{error}: correct REDIS_URL or CELERY_BROKER_URL") from error


def connect(url: str, *, timeout_s: float | None = None) -> Redis:
    """A client for threads; it connects on first use, and tries once more on a stale connection.

    Args:
        url: of Redis.
        timeout_s: for an answer, where waiting as long as others do would be too long; what
            takes longer is not tried again.

    Raises:
        ConfigError: ``url`` is not a Redis address.
    """
    with _address_errors():
        return Redis.from_url(
            url,
            socket_timeout=timeout_s or _SOCKET_TIMEOUT_S,
            socket_connect_timeout=timeout_s or _CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0 if timeout_s else 1),
        )


def connect_async(url: str) -> AsyncRedis:
    """A client for an event loop, with a few connections that callers wait for in turn.

    Raises:
        ConfigError: ``url`` is not a Redis address.
    """
    with _address_errors():
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_ENGINE_CONNECTIONS,
            timeout=_SOCKET_TIMEOUT_S,
            socket_timeout=_SOCKET_TIMEOUT_S,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
        )
    return AsyncRedis.from_pool(pool)


def now_s(redis: Any) -> float:
    """Seconds since the epoch by the clock of Redis, which all hosts share; raises StoreUnavailable."""
    with store_errors():
        seconds, microseconds = redis.time()
    return float(seconds) + float(microseconds) / 1e6


def check_writable(redis: Redis) -> None:
    """Raise StoreUnavailable unless Redis takes writes; out of memory it still answers a ping."""
    with store_errors():
        redis.set(keys.probe(), b"", ex=1)


def require(redis: Redis, variable: str = "REDIS_URL", *, patience_s: float = 0.0) -> None:
    """Raise StoreUnavailable unless Redis answers, now or within ``patience_s``."""
    give_up_at = time.monotonic() + patience_s
    while True:
        try:
            with store_errors(variable):
                redis.ping()
        except StoreUnavailable:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(_RETRY_S)
        else:
            return
