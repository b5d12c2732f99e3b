"""The end of log files that several worker processes write."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

# A line is some hundred bytes; a traceback some thousand.
_READ_BYTES: Final = 32_768
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z?")


def last_lines(paths: Iterable[Path], count: int) -> list[str]:
    """The last lines of all files together, in the order of the times they bear, oldest first."""
    lines: list[tuple[str, str]] = []
    for path in sorted(paths):
        at = ""
        for line in _tail(path)[-count:]:
            # What has no time of its own, such as a traceback, stays with the line before.
            found = _TIME.search(line)
            at = found[0] if found else at
            lines.append((at, line))
    return [line for _, line in sorted(lines, key=lambda one: one[0])[-count:]]


def _tail(path: Path) -> list[str]:
    # It may be rotated away just now, or not be readable for this user.
    with suppress(OSError), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _READ_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
        return [line for line in lines if line]
    return []
