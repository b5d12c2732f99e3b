"""Sends a run's chunks to an engine in this process.

Apart from the other sender, as the engine brings the provider's client: 0.5 s and 26 MB that a
command with workers does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait

from qaworker.engine.batches import Batch
from qaworker.engine.thread import EngineThread
from qaworker.errors import ProviderDown
from qaworker.models import Outcome


class LocalSender:
    """Hands batches to an engine in this process; what it finishes travels as a worker's would."""

    def __init__(self, engine: EngineThread, *, batches: int) -> None:
        self._engine = engine
        self._batches = batches
        self._under_way: dict[Future[dict[str, Outcome]], tuple[str, ...]] = {}

    def room(self) -> int:
        """How many batches the engine can still hold.

        Raises:
            HaltError: the account is broken; there is nobody to wait for it here. An outage passes,
                and what another process found may have: both are waited for.
        """
        for future in [future for future in self._under_way if future.done()]:
            del self._under_way[future]
            future.result()
        error = self._engine.refused_by
        if error is not None and not isinstance(error, ProviderDown):
            raise error
        return self._batches - len(self._under_way)

    def send(self, batch: Batch, _sent_at: float) -> None:
        """Begin one batch."""
        self._under_way[self._engine.submit(batch)] = batch.digests

    def wait(self) -> None:
        """Return when no batch is under way; drain the engine first."""
        wait(self._under_way)

    def lost(self, sent: Sequence[tuple[str, float]]) -> list[str]:
        """Digests the engine does not hold."""
        held = {digest for digests in self._under_way.values() for digest in digests}
        return [digest for digest, _ in sent if digest not in held]
