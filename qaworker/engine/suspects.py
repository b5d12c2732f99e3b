"""Chunks whose workers died: asked with few others, then alone, so that no innocent one is blamed.

================= ====================================== ======================
workers that died on the wire with it                    a further death blames
================= ====================================== ======================
none, one         whatever else there is                 all the worker had
two               FEW of its kind, and the unsuspected   those on the wire
three             nothing                                this one
four              it is asked no more
================= ====================================== ======================

A chunk that kills its worker takes its company along twice, then FEW, then nobody. Those that were
merely there, as when an operator kills a worker, are answered on the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final, Protocol

from qaworker import logs
from qaworker.errors import StoreUnavailable
from qaworker.store.outcomes import SUSPECT_DEATHS

log = logs.get(__name__)

RETRY_S: Final = 1.0
# All that a worker had become suspects when it dies twice: they should not take hours.
FEW: Final = 32
LONER_DEATHS: Final = SUSPECT_DEATHS + 1
MOST_DEATHS: Final = LONER_DEATHS + 1


class Takers(Protocol):
    """Where it is noted who asks; :class:`qaworker.store.outcomes.OutcomeStore` in production."""

    async def take(self, digests: Sequence[str], /) -> None:
        """Note that this process asks, or raise StoreUnavailable."""


class Suspects:
    """Who of a process is on the wire with whom; belongs to one event loop."""

    def __init__(self, takers: Takers) -> None:
        self._takers = takers
        self._few = asyncio.Semaphore(FEW)
        self._door = asyncio.Lock()
        self._inside = 0
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    async def join(self, digests: Sequence[str], deaths: int) -> ExitStack:
        """Return when chunks for which so many workers died may be asked; the context is the call."""
        with ExitStack() as company:
            if deaths == SUSPECT_DEATHS:
                await self._few.acquire()
                company.callback(self._few.release)
            await self._door.acquire()
            if deaths >= LONER_DEATHS:
                # Nobody comes in behind it.
                company.callback(self._door.release)
                await self._is_empty.wait()
            else:
                self._door.release()
                self._enter()
                company.callback(self._leave)
            if deaths >= SUSPECT_DEATHS:
                await self._note(digests)
            return company.pop_all()

    def _enter(self) -> None:
        self._inside += 1
        self._is_empty.clear()

    def _leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._is_empty.set()

    async def _note(self, digests: Sequence[str]) -> None:
        while True:
            try:
                await self._takers.take(digests)
            except StoreUnavailable as error:
                log.warning("calls_wait_for_redis", waiting=len(digests), error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return
