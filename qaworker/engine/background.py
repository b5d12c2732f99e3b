"""How what runs in the background ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

CANCEL_AGAIN_S: Final = 0.1
# Whoever ends has no time for a Redis that hangs.
LAST_WRITE_S: Final = 2.0


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended."""
    ending = set(tasks)
    while ending:
        for task in ending:
            task.cancel()
        # Now and then wait_for of Python 3.11 loses a cancellation, and redis calls it.
        _, ending = await asyncio.wait(ending, timeout=CANCEL_AGAIN_S)
