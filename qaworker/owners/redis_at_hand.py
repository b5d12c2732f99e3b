"""Redis as whoever starts or stops workers needs it: at once, or else how to start it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from gettext import gettext as _
from typing import Final

from redis import Redis

from qaworker import logs
from qaworker.errors import StoreUnavailable
from qaworker.settings import Settings
from qaworker.store.connections import connect, require

_ANSWER_S: Final = 1.0


@contextmanager
def answering(values: Settings) -> Iterator[Redis]:
    """A client of a Redis that answers, where the queue's answers too.

    Raises:
        StoreUnavailable: one of them does not answer within a second; it says how to start it.
    """
    for variable, url in (
        ("REDIS_URL", values.redis_url),
        ("CELERY_BROKER_URL", values.broker_url),
    ):
        try:
            if url:
                with connect(url, timeout_s=_ANSWER_S) as redis:
                    require(redis)
        except StoreUnavailable as error:
            raise StoreUnavailable(
                _(
                    "Redis does not answer at {url}: start it (Debian: sudo systemctl start"
                    " redis-server; macOS: brew services start redis), or correct {variable}"
                ).format(url=logs.redact(url), variable=variable)
            ) from error
    with connect(values.redis_url) as redis:
        yield redis
