"""Writes outcomes, and what was counted: all that ends at about the same time in one round trip.

An answer that cannot be written stays in memory, and its message unacknowledged, until Redis is
back: what was paid for is not dropped. What cannot be written for another reason is given back to
its waiter as that error, and to no other.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol

from qaworker import logs
from qaworker.engine.background import LAST_WRITE_S
from qaworker.errors import StoreUnavailable
from qaworker.store.counters import Counts, Portion
from qaworker.store.outcomes import Notice

log = logs.get(__name__)

RETRY_S = 1.0
# Counts that no outcome takes along go alone, once in so long.
FLUSH_S = 1.0
# Some hundred outcomes are written in a few milliseconds; more would delay the event loop.
LARGEST_WRITE = 256

Entry = tuple[Notice, asyncio.Future[None]]


class Writer(Protocol):
    """Where notices go; :class:`qaworker.store.outcomes.OutcomeStore` in production."""

    async def write(self, notices: list[Notice], counts: Portion, /) -> None:
        """Store, or raise StoreUnavailable."""


class Recorder:
    """A queue of notices and the one task that writes them; belongs to one event loop."""

    def __init__(self, writer: Writer, counts: Counts, *, retry_s: float = RETRY_S) -> None:
        self._writer = writer
        self._counts = counts
        self._retry_s = retry_s
        self._queue: list[Entry] = []
        self._wake = asyncio.Event()

    async def record(self, *notices: Notice) -> None:
        """Return when every notice is in Redis, however long Redis is away.

        Raises:
            Exception: what else prevented the write, which is a defect.
        """
        if not notices:
            return
        loop = asyncio.get_running_loop()
        written = [loop.create_future() for _ in notices]
        self._queue.extend(zip(notices, written, strict=True))
        self._wake.set()
        await asyncio.gather(*written)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._wake.wait()
            if not (self._wake.is_set() or self._counts.is_empty):
                await self._settle([])
            self._wake.clear()
            while self._queue:
                part, self._queue = self._queue[:LARGEST_WRITE], self._queue[LARGEST_WRITE:]
                await self._settle(part)

    async def close(self) -> None:
        """Hand over what was counted since; without Redis it is lost."""
        if not self._counts.is_empty:
            with suppress(StoreUnavailable, TimeoutError):
                async with asyncio.timeout(LAST_WRITE_S):
                    await self._writer.write([], self._counts.take())

    async def _settle(self, part: list[Entry]) -> None:
        try:
            await self._write([notice for notice, _ in part])
        except Exception as error:
            log.exception("outcomes_not_written", outcomes=len(part))
            if len(part) > 1:  # the others are not to pay for the one that cannot be written
                for entry in part:
                    await self._settle([entry])
            else:
                _resolve(part, error)
        else:
            _resolve(part)

    async def _write(self, notices: list[Notice]) -> None:
        counts = self._counts.take()
        while True:
            try:
                await self._writer.write(notices, counts)
            except StoreUnavailable as error:
                log.warning("outcomes_wait_for_redis", outcomes=len(notices), error=str(error))
                await asyncio.sleep(self._retry_s)
            except Exception:  # it was not sent
                self._counts.put_back(counts)
                raise
            else:
                return


def _resolve(part: list[Entry], error: Exception | None = None) -> None:
    for _, written in part:
        if written.done():  # its waiter was cancelled
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
