"""Brings a run's ledger up to what Redis knows of its chunks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from qaworker import logs
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader, settles

log = logs.get(__name__)

NOTICES_AT_ONCE: Final = 1000


class Recording:
    """Of one run; every method raises StoreUnavailable, and the same again goes on."""

    def __init__(self, ledger: Ledger, reader: OutcomeReader) -> None:
        self._ledger = ledger
        self._reader = reader

    def record_all(self) -> None:
        """Record whatever there is to record, told or not."""
        self.reopen()
        while self.take_done():
            pass
        self.look_up(self._ledger.unsettled_digests())

    def look_up(self, digests: Iterable[str]) -> None:
        """Record what is known of digests, whose notices may be lost."""
        left = iter(digests)
        while page := list(islice(left, NOTICES_AT_ONCE)):
            self.record(page)

    def record(self, digests: Sequence[str]) -> set[str]:
        """Record what is known of a page of digests; returns those that are settled."""
        outcomes = self._reader.fetch(digests)
        settled = [o for o in outcomes.values() if settles(o, self._ledger.run_id)]
        self._ledger.record(settled)
        return {outcome.digest for outcome in settled}

    def take_done(self) -> bool:
        """Record a page of what workers told; False when that was nothing."""
        digests = self._reader.take_done(self._ledger.run_id, NOTICES_AT_ONCE)
        self.record(digests)
        return bool(digests)

    def reopen(self) -> int:
        """Await new outcomes of dead chunks that were requeued; returns how many."""
        run_id = self._ledger.run_id
        requeued = self._reader.requeued(run_id)
        if not requeued:
            return 0
        reopened = self._ledger.reopen(requeued.items())
        self._reader.forget_requeued(run_id, list(requeued))
        log.info("chunks_requeued", chunks=reopened)
        return reopened
