"""Spans of time, as people read them."""

from __future__ import annotations


def spoken(seconds: float) -> str:
    """A span in the two largest of its units: ``34 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    minutes, hours, days = (int(seconds // unit) for unit in (60, 3600, 86400))
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
