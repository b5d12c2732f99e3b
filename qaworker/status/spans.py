"""Spans of time and moments, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime
from gettext import gettext as _


def spoken(seconds: float) -> str:
    """A span in the two largest of its units: ``34 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    minutes, hours, days = (int(seconds // unit) for unit in (60, 3600, 86400))
    if days:
        return _("{days} d {hours} h").format(days=days, hours=hours % 24)
    if hours:
        return _("{hours} h {minutes} min").format(hours=hours, minutes=minutes % 60)
    if minutes:
        return _("{minutes} min").format(minutes=minutes)
    return _("{seconds} s").format(seconds=int(seconds))


def clock(at: float) -> str:
    """A moment, from seconds since the epoch: as in the logs, so that it is found there."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S UTC}"
