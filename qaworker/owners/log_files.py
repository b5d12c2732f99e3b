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
    timed = []
    # What has no time, such as a traceback, goes with what was written after it.
    at = written_at.isoformat()
    for line in reversed([line for line in lines if line]):
        found = _TIME.search(line)
        at = found[0] if found else at
        timed.append((at, line))
    return timed[::-1]
