"""Records how many workers are to run here: in Redis, and a stop on this host while that is away."""

from __future__ import annotations

from collections.abc import Callable
from gettext import gettext as _

from redis import Redis

from qaworker.errors import StoreUnavailable
from qaworker.owners import memory
from qaworker.owners.lock import locked
from qaworker.owners.readiness import HOST
from qaworker.owners.redis_at_hand import answering
from qaworker.settings import Settings
from qaworker.store import fleet


def expect(values: Settings, redis: Redis, workers: int) -> None:
    """Record how many are to run.

    Raises:
        StoreUnavailable: Redis does not answer.
        OwnerError, NotAllowed: the runtime directory cannot be written.
    """
    fleet.expect(redis, HOST, workers)
    memory.keep_stop(values.runtime_dir, is_untold=False)


def withdraw(values: Settings) -> None:
    """Record that none are to run.

    Raises:
        StoreUnavailable: Redis does not answer; it is told by the next look or start.
        OwnerError, NotAllowed: the runtime directory cannot be written.
    """
    try:
        with answering(values) as redis:
            expect(values, redis, 0)
    except StoreUnavailable:
        memory.keep_stop(values.runtime_dir, is_untold=True)
        raise


def tell_stop(values: Settings) -> None:
    """Let Redis know of a stop that it missed.

    Raises:
        StoreUnavailable: it is still away.
        Busy: another command starts or stops workers.
        OwnerError, NotAllowed: the runtime directory cannot be written.
    """
    if memory.recall(values.runtime_dir).is_stop_untold:
        with locked(values.runtime_dir, "monitor"), answering(values) as redis:
            # A start may have come in between.
            if memory.recall(values.runtime_dir).is_stop_untold:
                expect(values, redis, 0)


def record(values: Settings, workers: int, say: Callable[[str], None]) -> bool:
    """Record how many are to run, although Redis may be away: False, and it is said.

    Raises:
        OwnerError, NotAllowed: the runtime directory cannot be written.
    """
    try:
        with answering(values) as redis:
            expect(values, redis, workers)
    except StoreUnavailable as error:
        say(str(error))
        is_stop = workers == 0
        memory.keep_stop(values.runtime_dir, is_untold=is_stop)
        if is_stop:
            text = _(
                "the stop is recorded here, and in Redis by the next look or start;"
                " answers that were not stored are asked for again"
            )
            say(text)
        return False
    return True
