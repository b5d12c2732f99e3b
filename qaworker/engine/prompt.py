"""A prompt on its way: what is asked, what that has cost so far, and how it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from qaworker.errors import ProviderUnavailable
from qaworker.models import Chunk, GenerationConfig, Usage


class HandedBack(Exception):
    """The prompt was stopped before it had an answer: its chunks go back to the queue."""


@dataclass(slots=True)
class Prompt:
    """Chunks asked together, and what asking them has cost so far."""

    chunks: tuple[Chunk, ...]
    config: GenerationConfig
    model: str
    usage: Usage
    calls: int
    digests: tuple[str, ...] = ()
    run_id: str = ""
    attempts: int = 0
    probes: int = 0
    """Calls that failed while the account was held, or held it."""
    was_truncated: bool = False
    repair: str = ""
    """What was wrong with the last answer."""
    failing_since_s: float | None = None
    """When the provider was first not available, by the loop's clock."""
    deaths: int = 0
    """Workers that died while they asked; see :mod:`qaworker.engine.suspects`."""
    failed_for: str = ""
    """The reason of its last call, if there was one and it failed."""
    refusals: int = 0
    """Calls refused with a bare 403, though others were made and answered in between."""
    refused_at_s: float = 0.0
    """When this was last refused so, by the loop's clock."""
    paying_run: str | None = None
    """The run whose budget pays; None when there is no budget."""
    is_stopping: bool = False
    _is_given_back: bool = False
    _is_calling: bool = False
    _timeout: asyncio.Timeout | None = field(default=None, repr=False)

    def stop(self) -> None:
        """Let the call on the wire end, begin no other."""
        self.is_stopping = True
        if not self._is_calling:
            self.abort()

    def abort(self) -> None:
        """Begin no other call, and cancel the one on the wire."""
        self.is_stopping = True
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def give_back(self) -> None:
        """Cancel the call on the wire as well, which costs no attempt: the process must end."""
        self._is_given_back = True
        self.abort()

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """A wait that ``stop`` ends with HandedBack."""
        if self.is_stopping:
            raise HandedBack
        try:
            async with asyncio.timeout(None) as self._timeout:
                yield
        except TimeoutError as error:
            raise HandedBack from error
        finally:
            self._timeout = None

    @asynccontextmanager
    async def calling(self, timeout_s: float) -> AsyncIterator[None]:
        """A call that ends in time, or as soon as ``abort`` says."""
        self.calls += 1
        self._is_calling = True
        begun_at_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(timeout_s) as self._timeout:
                yield
        except TimeoutError as error:
            if self._is_given_back:
                raise HandedBack from error
            waited_s = asyncio.get_running_loop().time() - begun_at_s
            raise ProviderUnavailable(f"no answer within {waited_s:.0f} s") from error
        finally:
            self._is_calling = False
            self._timeout = None
