"""Whether the provider is down: what became of the calls of this process that began together.

Failures are quicker than answers as a rule. A call that failed is therefore judged with those that began
just before it, and whichever of these is still on the wire has outlived it: it counts as answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 30.0
# So many at most, that an outage which begins at full speed is seen before chunks run out of attempts.
LARGEST_WINDOW: Final = 50
# Fewer failures than this are bad luck, whatever share of a few calls they are.
LEAST_FAILURES: Final = 5


@dataclass(slots=True, eq=False)
class _Fate:
    """What is known so far of one call."""

    began_at_s: float
    has_failed: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """One call, and the fates of those that began last, its own among them."""

    number: int
    fate: _Fate
    company: tuple[_Fate, ...]

    @property
    def began_at_s(self) -> float:
        """By the clock."""
        return self.fate.began_at_s

    @property
    def is_in_outage(self) -> bool:
        """Whether half of the calls failed that began up to WINDOW_S before it, and with it."""
        since_s = self.began_at_s - WINDOW_S
        judged = [fate.has_failed for fate in self.company if fate.began_at_s >= since_s]
        failures = judged.count(True)
        return failures >= LEAST_FAILURES and 2 * failures >= len(judged)


class Health:
    """Remembers which of the last calls the provider was not available for."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._fates: deque[_Fate] = deque(maxlen=LARGEST_WINDOW)
        self._begun = 0
        self._latest_failed: Trial | None = None
        self._answered_at_s: float | None = None

    def begin(self) -> Trial:
        """A call goes onto the wire."""
        fate = _Fate(self._clock())
        self._fates.append(fate)
        self._begun += 1
        return Trial(self._begun, fate, tuple(self._fates))

    def answered(self) -> None:
        """The provider was available for a call."""
        self._answered_at_s = self._clock()

    def failed(self, trial: Trial) -> bool:
        """The provider was not available for a call; whether it is down.

        It is where half of the calls failed that began last before this one, or before the latest one
        that failed: of many that fail at the same moment, any may be the last to say so.
        """
        trial.fate.has_failed = True
        if self._latest_failed is None or trial.number > self._latest_failed.number:
            self._latest_failed = trial
        return trial.is_in_outage or self._latest_failed.is_in_outage

    def has_answered_since(self, at_s: float) -> bool:
        """Whether the provider answered anybody after that moment of the clock."""
        return self._answered_at_s is not None and self._answered_at_s > at_s

    def forget(self) -> None:
        """Begin anew, as after a hold."""
        self._fates.clear()
        self._latest_failed = None
