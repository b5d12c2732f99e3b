"""The end of log files that several worker processes write."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

# A line is some hundred bytes; a traceback some thousand.
_READ_BYTES: Final = 32_768
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z?")


def last_lines(paths: Iterable[Path], count: int) -> list[str]:
    """The last lines of all files together, in the order of the times they bear, oldest first."""
    timed = [one for path in sorted(paths) for one in _tail(path)]
    return [line for _, line in sorted(timed, key=lambda one: one[0])[-count:]]


def _tail(path: Path) -> list[tuple[str, str]]:
    """The last lines of a file, each behind a time."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            written_at = datetime.fromtimestamp(os.fstat(file.fileno()).st_mtime, UTC)
            file.seek(max(0, size - _READ_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:  # rotated away just now, or not readable for this user
        return []
    timed: list[tuple[str, str]] = []
    at = ""
    for line in lines:
        # What has no time, such as a traceback, stays with the line before,
        found = _TIME.search(line)
        at = found[0] if found else at
        if line:
            timed.append((at, line))
    # but at the end it is what a process said whose log was not open yet.
    end = len(timed)
    while end and not _TIME.search(timed[end - 1][1]):
        end -= 1
    return timed[:end] + [(max(at, written_at.isoformat()), line) for _, line in timed[end:]]
