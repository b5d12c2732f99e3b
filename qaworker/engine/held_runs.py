"""Runs that nobody is to call for: their budget is spent, or an operator holds them.

What is held is read with all other holds every second; before a batch is left to its run's client,
Redis is asked again, as the hold may have been released since.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from qaworker import logs
from qaworker.store.holds import Hold, run_of

log = logs.get(__name__)


class HeldRuns:
    """The held runs as a process knows them; belongs to one event loop."""

    def __init__(
        self, read: Callable[[], Awaitable[list[Hold]]], on_held: Callable[[str], None]
    ) -> None:
        """Begin with none.

        Args:
            read: every hold there is, or StoreUnavailable.
            on_held: told the id of each run when it is held, to end what is under way.
        """
        self._read = read
        self._on_held = on_held
        self._ids: frozenset[str] = frozenset()

    def __contains__(self, run_id: str) -> bool:
        """Whether it was held when that was last read; for any thread."""
        return run_id in self._ids

    async def hold_still(self, run_id: str) -> bool:
        """Whether a run is held, asking Redis if it was.

        Raises:
            StoreUnavailable: nobody can tell.
        """
        if run_id in self._ids:
            self.match(await self._read())
        return run_id in self._ids

    def match(self, holds: Iterable[Hold]) -> None:
        """Take the holds there are."""
        found = frozenset(run_id for hold in holds if (run_id := run_of(hold.scope)))
        for run_id in found - self._ids:
            self._tell(run_id)
        self._ids = found

    def add(self, run_id: str) -> None:
        """This process held a run."""
        if run_id not in self._ids:
            self._ids |= {run_id}
            self._tell(run_id)

    def _tell(self, run_id: str) -> None:
        log.warning("run_held", run=run_id)
        self._on_held(run_id)
