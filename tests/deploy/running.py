"""What is left running."""

from __future__ import annotations

from pathlib import Path


def running_in(directory: Path) -> set[int]:
    """Processes whose working directory is there or below."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = (process / "cwd").readlink()
        except OSError:  # it has ended, or is another user's
            continue
        if place.is_relative_to(directory):
            found.add(int(process.name))
    return found
