"""Waits for workers to consume: what their owner says of the processes, and their hearts of the rest."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection
from gettext import gettext as _
from typing import Final

from redis import Redis

from qaworker.errors import ConfigError, ExitCode, OwnerError, StoreUnavailable
from qaworker.owners.owner import Owned, Owner
from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat

HOST: Final = socket.gethostname()
_POLL_S: Final = 0.2
# Each worker that fails has systemd write four lines after its own.
_LINES: Final = 100


def living_here(redis: Redis) -> list[Beat]:
    """Workers of this host whose last beat is fresh, by name; raises StoreUnavailable."""
    return [beat for beat in heartbeats.living(redis) if beat.host == HOST]


def wait_until_up(redis: Redis, owner: Owner, numbers: Collection[int], timeout_s: float) -> None:
    """Return when all of these workers consume: a heart begins to beat with that.

    Raises:
        ConfigError: one ended because a setting is wrong.
        StoreUnavailable: one ended because Redis was away, or this process cannot ask it.
        OwnerError: one ended otherwise, or they do not consume in time.
    """
    give_up_at = time.monotonic() + timeout_s
    while True:
        owned = {one.number: one for one in owner.owned()}
        failed = [owned[n] for n in numbers if n in owned and owned[n].state == "failed"]
        if failed:
            raise _failure(owner, failed[0])
        beating = {beat.pid for beat in living_here(redis)}
        missing = [n for n in sorted(numbers) if n not in owned or owned[n].pid not in beating]
        if not missing:
            return
        if time.monotonic() >= give_up_at:
            raise OwnerError(
                _("after {timeout_s:g} s these workers do not consume: {numbers}; {line}").format(
                    timeout_s=timeout_s,
                    numbers=", ".join(map(str, missing)),
                    line=_last_line(owner),
                )
            )
        time.sleep(_POLL_S)


def _failure(owner: Owner, owned: Owned) -> OwnerError | ConfigError | StoreUnavailable:
    text = _("worker {number} ended with {code}: {line}").format(
        number=owned.number, code=owned.exit_code, line=_last_line(owner)
    )
    match owned.exit_code:
        case ExitCode.CONFIG:
            return ConfigError(text)
        case ExitCode.TRY_AGAIN:
            return StoreUnavailable(text)
        case _:
            return OwnerError(text)


def _last_line(owner: Owner) -> str:
    lines = owner.log_lines(_LINES)
    # What a command ends with begins so; its owner, or another worker, may have written since.
    said = [line for line in lines if line.startswith("qaworker: ")]
    return (said or lines or [_("its log is empty")])[-1]
