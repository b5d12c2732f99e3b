"""Drives a run to its end: tops the queue up, records outcomes, and sends again what got lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, Protocol

from qaworker import logs
from qaworker.client.recording import NOTICES_AT_ONCE, Recording
from qaworker.client.senders import Sender
from qaworker.engine.batches import Batch
from qaworker.errors import RunCancelled, RunHeld, StoreUnavailable
from qaworker.models import Chunk, GenerationConfig
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader
from qaworker.store.tally import Counts

log = logs.get(__name__)

CHUNKS_PER_TASK: Final = 16
IDLE_S: Final = 0.1
RETRY_S: Final = 1.0
RECONCILE_EVERY_S: Final = 10.0
# A message that is neither waiting nor claimed after this long is lost: a worker claims what it
# takes within seconds, and a dead worker's messages are back after 45.
LOST_AFTER_S: Final = 60.0
HEED_EVERY_S: Final = 1.0


class Standing(Protocol):
    """Whether a run may go on; :class:`qaworker.client.budget.Budget` in production."""

    def held(self) -> RunHeld | None:
        """Why nobody calls for it, if that is so, or StoreUnavailable."""

    def renew(self) -> None:
        """Let workers know what it may spend, or raise StoreUnavailable."""

    def release(self) -> None:
        """It is complete: workers need not hold it any more; or raise StoreUnavailable."""


class Driver:
    """One run on its way; every chunk ends in the ledger with an outcome."""

    def __init__(  # noqa: PLR0913, all that makes a run
        self,
        ledger: Ledger,
        reader: OutcomeReader,
        sender: Sender,
        *,
        config: GenerationConfig,
        model: str,
        standing: Standing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._reader = reader
        self._recording = Recording(ledger, reader)
        self._sender = sender
        self._config = config
        self._model = model
        self._standing = standing
        self._clock = clock
        self._reconcile_at = 0.0
        self._heed_at = 0.0
        self._cancelled_at: float | None = None
        """When the run was cancelled before it began here; None until that is known."""
        self._chunks_per_task = CHUNKS_PER_TASK // config.batch_chunks * config.batch_chunks

    def run(
        self,
        on_progress: Callable[[Counts], None],
        *,
        timeout_s: float | None = None,
        idle: Callable[[float], None] = time.sleep,
    ) -> bool:
        """Go on until every chunk has an outcome, or for ``timeout_s``; returns which.

        Raises:
            HaltError: the engine of this process found the account broken.
            RunCancelled: somebody cancelled the run since it began here.
            RunHeld: its budget is spent, or an operator holds it.
        """
        give_up_at = None if timeout_s is None else self._clock() + timeout_s
        is_away = False
        while True:
            try:
                moved = self.step()
            except StoreUnavailable as error:
                if not is_away:
                    log.warning("run_waits_for_redis", error=str(error))
                is_away, moved = True, False
            else:
                if is_away:
                    log.warning("run_goes_on")
                is_away = False
            counts = self._ledger.counts()
            on_progress(counts)
            if self._is_complete(counts):
                return True
            if give_up_at is not None and self._clock() >= give_up_at:
                return False
            if not moved:
                idle(RETRY_S if is_away else IDLE_S)

    def step(self) -> bool:
        """One round; False when there was nothing to do.

        Raises:
            StoreUnavailable: Redis does not answer; the next round makes up for it.
            RunCancelled, RunHeld: see :meth:`run`.
        """
        self._heed()
        moved = self._recording.take_done()
        if self._clock() >= self._reconcile_at:
            began_at = self._clock()
            self._reconcile()
            took_s = self._clock() - began_at
            # A run of a million chunks must not spend its time on looking for lost ones.
            self._reconcile_at = began_at + max(RECONCILE_EVERY_S, 10 * took_s)
        return self.send() > 0 or moved

    def send(self) -> int:
        """Send what there is room for; returns the number of chunks that left the waiting ones.

        Raises as :meth:`step`.
        """
        self._heed()
        room = self._sender.room()
        moved = 0
        while room > 0 and (rows := self._ledger.waiting(room * self._chunks_per_task)):
            moved += len(rows)
            unknown = self._without_outcome(rows)
            room -= self._dispatch(unknown)
        return moved

    def _dispatch(self, rows: Sequence[tuple[Chunk, str]]) -> int:
        """Send chunks in tasks; each is marked as sent just before, as what is marked can be missed.

        However this ends, one task at most is marked and not sent.
        """
        now = self._reader.now_s()
        tasks = 0
        is_budgeted = self._ledger.budget_micros is not None
        for start in range(0, len(rows), self._chunks_per_task):
            part = rows[start : start + self._chunks_per_task]
            chunks, digests = zip(*part, strict=True)
            batch = Batch(
                chunks,
                digests,
                self._config,
                self._model,
                self._ledger.run_id,
                is_budgeted=is_budgeted,
            )
            self._heed()
            self._ledger.mark_sent(digests, now)
            self._sender.send(batch, now)
            tasks += 1
        return tasks

    def _heed(self) -> None:
        """End the run when it was cancelled since it began here, or is held and not complete."""
        now = self._clock()
        if now < self._heed_at:
            return
        cancelled_at = self._reader.cancelled_at(self._ledger.run_id)
        if self._cancelled_at is None:
            self._send_again(sent_until=cancelled_at)
        elif cancelled_at > self._cancelled_at:
            raise RunCancelled("the run was cancelled: the same command goes on")
        self._cancelled_at = cancelled_at
        if self._standing is not None and (held := self._standing.held()) is not None:
            # Who is answered already, as from another run, has nobody to wait for.
            self._recording.record_all()
            # Workers leave it to us: the same command sends it at once.
            self._ledger.mark_all_waiting()
            if not _is_settled(self._ledger.counts()):
                raise held
            self._standing.release()
        self._heed_at = now + HEED_EVERY_S

    def _send_again(self, *, sent_until: float) -> None:
        """Let chunks wait again whose messages were removed when the run was cancelled."""
        if not sent_until:
            return
        sent = (digest for digest, sent_at in self._ledger.sent() if sent_at <= sent_until)
        while page := list(islice(sent, NOTICES_AT_ONCE)):
            self._ledger.mark_waiting(set(page) - self._reader.claimed(page))

    def _without_outcome(self, rows: Sequence[tuple[Chunk, str]]) -> list[tuple[Chunk, str]]:
        """Record what is known already; the rest of ``rows``."""
        known = self._recording.record([digest for _, digest in rows])
        return [row for row in rows if row[1] not in known]

    def _is_complete(self, counts: Counts) -> bool:
        """Whether every chunk has an outcome, and none that is dead was requeued meanwhile."""
        if not _is_settled(counts) or not counts.dead:
            return _is_settled(counts)
        try:
            return self._recording.reopen() == 0
        except StoreUnavailable as error:
            # What was requeued is found when the run is started again.
            log.warning("requeued_chunks_unknown", error=str(error))
            return True

    def _reconcile(self) -> None:
        """Find dead chunks sent again, outcomes whose notice got lost, chunks whose message did."""
        self._recording.reopen()
        self._recording.look_up(digest for digest, _ in self._ledger.sent())
        if self._standing is not None:
            # When all that was paid is known, and before more is.
            self._standing.renew()
        lost_before = self._reader.now_s() - LOST_AFTER_S
        late = ((digest, at) for digest, at in self._ledger.sent() if at < lost_before)
        while page := list(islice(late, NOTICES_AT_ONCE)):
            if lost := self._sender.lost(page):
                log.info("chunks_sent_again", chunks=len(lost))
                # As there is room: what is only taken for lost, as it was handed back, stands there.
                self._ledger.await_again(lost)


def _is_settled(counts: Counts) -> bool:
    return counts.settled == counts.chunks
