"""The gate every call of a process passes: closed while the provider wants nobody to call.

It pauses after a 429 for as long as the provider asked, and stays shut while the account is
broken; then one call at a time goes through to try, and its success opens the gate for all.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NewType

from qaworker import logs
from qaworker.errors import HaltError

log = logs.get(__name__)

PROBE_INTERVAL_S = 15.0

Pass = NewType("Pass", int)
"""Tells whether a call was let through before or after the gate was shut."""


class Gate:
    """Open, paused until a moment, or shut by an error; belongs to one event loop."""

    def __init__(self, *, probe_interval_s: float = PROBE_INTERVAL_S) -> None:
        self._probe_interval_s = probe_interval_s
        self._paused_until_s = 0.0
        self._probe_at_s = 0.0
        self._times_shut = Pass(0)
        self._opened = asyncio.Event()
        self.halted_by: HaltError | None = None

    async def pass_through(self) -> Pass:
        """Return when a call may be made; while shut, one caller in each interval is let through."""
        loop = asyncio.get_running_loop()
        while (wait_s := self._open_at_s() - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._opened.wait()
        if self.halted_by is not None:
            self._probe_at_s = loop.time() + self._probe_interval_s
        return self._times_shut

    def pause(self, seconds: float) -> None:
        """Let nobody call for a while; never shortens a pause."""
        until_s = asyncio.get_running_loop().time() + seconds
        self._paused_until_s = max(self._paused_until_s, until_s)

    def shut(self, error: HaltError) -> None:
        """Stop calling: the account is broken."""
        if self.halted_by is None:
            log.error("account_halted", error=str(error), probe_every_s=self._probe_interval_s)
            self._probe_at_s = asyncio.get_running_loop().time() + self._probe_interval_s
            self._times_shut = Pass(self._times_shut + 1)
        self.halted_by = error

    def answered(self, passed: Pass) -> None:
        """The account works, as a call shows that was answered: open the gate if it was shut.

        One that went through before the gate was shut shows nothing.
        """
        if self.halted_by is not None and passed == self._times_shut:
            log.info("account_released", was=str(self.halted_by))
            self.halted_by = None
            self._opened.set()
            self._opened = asyncio.Event()

    def _open_at_s(self) -> float:
        if self.halted_by is None:
            return self._paused_until_s
        return max(self._paused_until_s, self._probe_at_s)
