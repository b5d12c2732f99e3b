"""The tasks a worker process holds: since when, and what became of those it held."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Holdings:
    """Counted in the process that has the connection: under prefork that is the parent.

    Threads count at the same time; each method is one step on a dictionary or a number.
    """

    _begun_at: dict[int, float] = field(default_factory=dict)
    finished: int = 0
    handed_back: int = 0

    def begin(self, task: object) -> None:
        """A task was taken."""
        self._begun_at[id(task)] = time.monotonic()

    def finish(self, task: object) -> None:
        """A task ended, and its message with it."""
        if self._begun_at.pop(id(task), None) is not None:
            self.finished += 1

    def hand_back(self, task: object) -> None:
        """A task's message went back to the queue."""
        if self._begun_at.pop(id(task), None) is not None:
            self.handed_back += 1

    @property
    def tasks(self) -> int:
        """How many are held."""
        return len(self._begun_at)

    @property
    def oldest_s(self) -> float:
        """For how long the oldest of them is held; 0 while there is none."""
        begun_at = list(self._begun_at.values())
        return time.monotonic() - min(begun_at) if begun_at else 0.0


holdings = Holdings()
"""Of this process."""
