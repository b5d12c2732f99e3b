"""What every owner can be asked and told; systemd, supervisord and the PID files each have a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

OwnerName = Literal["systemd", "supervisor", "pid"]


@dataclass(frozen=True, slots=True)
class Owned:
    """A worker process as its owner sees it."""

    number: int
    pid: int
    """0 while there is none."""
    state: Literal["running", "starting", "stopping", "stopped", "failed"]
    exit_code: int | None = None
    """How the last process ended, where the owner knows."""


class Owner(Protocol):
    """Owns this host's workers; what tells or asks it raises OwnerError or NotAllowed."""

    name: OwnerName

    def is_available(self) -> bool:
        """Whether it is installed here and answers; raises nothing."""

    def owned(self) -> list[Owned]:
        """Its worker processes, by number."""

    def expected(self) -> int:
        """How many it is told to run now; 0 when they are stopped."""

    def start(self, workers: int, log_level: str | None) -> None:
        """Make exactly so many run; returns before they consume.

        Args:
            workers: how many; others are started, or stopped in order.
            log_level: of those started from now on; None leaves it to the settings.
        """

    def stop(self, timeout_s: float) -> None:
        """End all of them in order, by force after ``timeout_s``; returns when none is left."""

    def restart(self, number: int, timeout_s: float) -> None:
        """Replace one; returns when the new process exists."""

    def stop_timeout_s(self) -> float | None:
        """The time it grants a stop, as it is configured; None while that is unknown."""

    def log_lines(self, count: int) -> list[str]:
        """The last lines its workers wrote, oldest first."""
