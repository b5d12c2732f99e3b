"""When the monitor may start workers itself, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from gettext import gettext as _
from typing import Final

from qaworker.monitor.judging import Problem
from qaworker.status.picture import Status

NAME: Final = "healing"
"""Of what is found when starting does not help."""
MOST_STARTS: Final = 3
WITHIN_S: Final = 3600.0


def is_due(seen: Status) -> bool:
    """Whether all workers of this host are gone, and nobody stopped them.

    A process that is there, hanging or starting, is its owner's concern.
    """
    return (
        not seen.redis_error
        and not seen.owner_error
        and seen.expected > 0
        and seen.recorded != 0
        and not any(worker.pid for worker in seen.workers)
    )


def recent(starts: Sequence[float], now: float) -> list[float]:
    """Those starts that count against the limit; none that a clock set back has put in the future."""
    return [at for at in starts if 0 <= now - at < WITHIN_S]


def exhausted(starts: Sequence[float]) -> Problem | None:
    """Why no further start is tried."""
    if len(starts) < MOST_STARTS:
        return None
    text = _(
        "the workers were started {starts} times within an hour and did not stay: see their log"
    )
    return Problem("critical", text.format(starts=len(starts)))
