"""The border to Redis: what its client raises becomes ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from qaworker.errors import StoreUnavailable


@contextmanager
def store_errors(variable: str = "REDIS_URL") -> Iterator[None]:
    """Raise every failure of Redis as StoreUnavailable, which names the variable of its address."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(
            f"Redis does not answer ({error}): start it, or correct {variable}"
        ) from error
