"""What a host keeps of the last start and stop until it boots: starts go by it, and Redis may be away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from qaworker.owners import files
from qaworker.owners.owner import OwnerName

NAME: Final = "service.json"


@dataclass(frozen=True, slots=True)
class Memory:
    """The last start and stop of an installation."""

    owner: OwnerName | None = None
    """Who was told to start workers; None when nobody was."""
    workers: int = 0
    """How many; 0 when nobody was."""
    is_stop_untold: bool = False
    """Whether they were stopped while Redis was away, so that it still says they are to run."""


_WRITTEN: Final = TypeAdapter(Memory)


def recall(runtime_dir: Path) -> Memory:
    """What is kept; nothing where there is no file, or one that is not ours."""
    try:
        return _WRITTEN.validate_json((runtime_dir / NAME).read_bytes())
    except (OSError, ValueError):
        return Memory()


def keep_start(runtime_dir: Path, owner: OwnerName, workers: int) -> None:
    """Keep who was told to start how many; raises NotAllowed and OwnerError."""
    _keep(runtime_dir, Memory(owner, workers))


def keep_stop(runtime_dir: Path, *, is_untold: bool) -> None:
    """Keep whether Redis misses the last stop; raises NotAllowed and OwnerError."""
    before = recall(runtime_dir)
    if before.is_stop_untold != is_untold:
        _keep(runtime_dir, replace(before, is_stop_untold=is_untold))


def _keep(runtime_dir: Path, memory: Memory) -> None:
    files.replace(runtime_dir / NAME, _WRITTEN.dump_json(memory).decode() + "\n")
