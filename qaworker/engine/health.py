"""Whether the provider is down: what became of the last calls of this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 30.0
# So many at most, that an outage which begins at full speed is seen before chunks run out of attempts.
LARGEST_WINDOW: Final = 50
# Fewer failures than this are bad luck, whatever share of a few calls they are.
LEAST_FAILURES: Final = 5


class Health:
    """Remembers which of the last calls the provider was not available for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._calls: deque[tuple[float, bool]] = deque(maxlen=LARGEST_WINDOW)
        self._answered_at_s: float | None = None

    def note(self, *, is_available: bool) -> None:
        """A call ended so."""
        self._calls.append((self._clock(), is_available))
        if is_available:
            self._answered_at_s = self._clock()

    def is_down(self) -> bool:
        """Whether half of the last calls failed, of those of the last WINDOW_S."""
        since = self._clock() - WINDOW_S
        recent = [is_available for at, is_available in self._calls if at >= since]
        failures = recent.count(False)
        return failures >= LEAST_FAILURES and 2 * failures >= len(recent)

    def has_answered_since(self, at_s: float) -> bool:
        """Whether the provider answered anybody after that moment of the clock."""
        return self._answered_at_s is not None and self._answered_at_s > at_s

    def forget(self) -> None:
        """Begin anew, as after a hold."""
        self._calls.clear()
