"""The border to Redis: what its client raises becomes ours; what cannot be read in it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from redis.exceptions import RedisError

from qaworker import logs
from qaworker.errors import StoreUnavailable

log = logs.get(__name__)


@contextmanager
def store_errors(variable: str = "REDIS_URL") -> Iterator[None]:
    """Raise every failure of Redis as StoreUnavailable, which names the variable of its address."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(
            f"Redis does not answer ({error}): start it, or correct {variable}"
        ) from error


@cache  # who watches reads it again and again
def left_out(what: str, name: str) -> None:
    """Say once that this version cannot read something, which hides nothing else from those who ask."""
    log.warning("unreadable_in_redis", what=what, name=name)
