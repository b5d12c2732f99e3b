"""Reads a file of ``NAME=value`` lines as systemd does, and nothing that systemd reads otherwise."""

from __future__ import annotations

import re
from typing import Final

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_COMMENT_BEHIND: Final = re.compile(r"\s#")


def parse(text: str) -> tuple[dict[str, str], list[str]]:
    """The values by name, and what is wrong with lines that were left out.

    The complaints name line and variable, and never quote a value.
    """
    values: dict[str, str] = {}
    complaints: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        name, is_assignment, value = (part.strip() for part in line.partition("="))
        is_comment = line.lstrip().startswith(("#", ";"))
        if is_comment or not line.strip():
            # systemd would take the next line for a part of this one.
            if line.endswith("\\"):
                complaints.append(f"line {number}: a comment must not end with a backslash")
        elif not is_assignment or not _NAME.fullmatch(name):
            complaints.append(f"line {number}: is not NAME=value")
        elif complaint := _complaint(value):
            complaints.append(f"line {number}: {name}: {complaint}")
        else:
            values[name.upper()] = _unquoted(value)
    return values, complaints


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] in "\"'" and value.find(value[0], 1) == len(value) - 1


def _unquoted(value: str) -> str:
    return value[1:-1] if _is_quoted(value) else value


def _complaint(value: str) -> str:
    """Why somebody could read it in another way; empty when nobody can."""
    if "\\" in value:
        return "must have no backslash (in a password write it as %5C)"
    if value[:1] in {'"', "'"} and not _is_quoted(value):
        return "must have no quotes but around the whole (in a password write them as %22, %27)"
    if _COMMENT_BEHIND.search(value) and not _is_quoted(value):
        return "must have no comment behind it: give that a line of its own"
    return ""
