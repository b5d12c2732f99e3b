"""Lets a call pass when the limiter grants it and a slot is free; who is refused holds no slot.

Each model has a line of its own, and lines take slots in turn: one that has used up its limit, or
has a thousand waiting, keeps no other from calling.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from qaworker import logs
from qaworker.engine import background
from qaworker.engine.line import Line, Passage, RateLimiter
from qaworker.errors import Reported, StoreUnavailable

log = logs.get(__name__)

# Longer than a task waits until it is given back to the queue, and others behind it may come.
IN_USE_S = 600.0


@dataclass(frozen=True, slots=True)
class Slow:
    """Lines in which a newcomer would wait for long."""

    models: frozenset[str]
    waiting: int
    """Calls in them that have no passage yet."""
    is_all: bool
    """Whether every line is, of those that were entered within IN_USE_S."""


class Turnstile:
    """All of a process's calls pass here; belongs to one event loop, on which it is entered."""

    def __init__(self, limiter: RateLimiter, *, calls_in_flight: int) -> None:
        self._limiter = limiter
        self._slots = asyncio.Semaphore(calls_in_flight)
        self._lines: dict[str, Line] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def enter(self, model: str, tokens: int) -> Passage:
        """Return when a call may be made, with what it is to be made in.

        ::

            with await turnstile.enter(model, prompt_tokens + output_cap) as passage:
                ...
                passage.settle(used_tokens)

        Who is cancelled waits no longer and has taken nothing.

        Args:
            model: to call.
            tokens: what the provider counts when it admits the call.

        Raises:
            ChunkTooLarge: the provider admits fewer tokens in a minute.
        """
        return await self._line(model).enter(tokens)

    @property
    def waiting(self) -> int:
        """Calls that have no passage yet; any thread may ask."""
        return sum(len(line.waiting) for line in tuple(self._lines.values()))

    @property
    def oldest_wait_s(self) -> float:
        """For how long the one that waits longest has waited: 0 when nobody waits; likewise."""
        return max((line.oldest_wait_s for line in tuple(self._lines.values())), default=0.0)

    def slow(self, wait_s: float) -> Slow:
        """Of the lines in which a newcomer would wait for so long for the limiter, or longer.

        Any thread may ask.
        """
        lines = tuple(self._lines.values())
        slow = [line for line in lines if line.wait_estimate_s >= wait_s]
        return Slow(
            models=frozenset(line.model for line in slow),
            waiting=sum(len(line.waiting) for line in slow),
            is_all=all(line in slow for line in lines if line.idle_s < IN_USE_S),
        )

    async def learn(self, model: str, reported: Reported) -> None:
        """Let all workers know what limits the provider reports; without Redis nobody calls anyway."""
        await self._line(model).learn(reported)

    def report(self, model: str, reported: Reported) -> None:
        """Likewise, soon: who has an answer in hand does not wait for Redis."""
        self._line(model).report(reported)

    async def pause(self, model: str, seconds: float) -> None:
        """Let no worker call for a while; without Redis nobody does anyway."""
        log.info("provider_throttles", model=model, pause_s=round(seconds, 1))
        try:
            await self._limiter.pause(model, seconds)
        except StoreUnavailable as error:
            log.warning("pause_not_told", model=model, error=str(error))

    def _line(self, model: str) -> Line:
        if model not in self._lines:
            line = self._lines[model] = Line(model, self._limiter, self._slots)
            self._tasks += [asyncio.create_task(line.pump()), asyncio.create_task(line.flush())]
        return self._lines[model]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End; what was not settled within the last moments stays charged in full."""
        await background.end(self._tasks)
