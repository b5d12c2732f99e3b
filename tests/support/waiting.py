"""Waiting for conditions instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.02


def wait_until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """The first true value of ``condition``, asked again and again until then.

    Raises:
        AssertionError: there was none in ``timeout_s`` seconds; it says ``what`` was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(POLL_S)
    return value
