"""Spans of time as options of a command: ``90s``, ``30m``, ``2h``, ``7d``."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import click

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)


def span(text: str) -> timedelta:
    """The ``type`` of an option.

    Raises:
        BadParameter: it is no number with a unit.
    """
    if not (found := _SPAN.fullmatch(text)):
        raise click.BadParameter(f"{text} is not a number with s, m, h or d, such as 30m")
    number, unit = found.groups()
    return timedelta(**{_UNITS[unit]: int(number)})
