"""What chance decides, without chance: the same for a seed, a prompt and the attempt it is."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()
_WORD = 1 << 64


@dataclass(frozen=True, slots=True)
class Draw:
    """One attempt's lots, each in the open interval (0, 1), and a name for the answer."""

    fault: float
    latency: float
    name: str


class Draws:
    """Counts the attempts of each prompt, so that a run's faults do not depend on arrival order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._attempts: dict[bytes, int] = {}

    def next(self, prompt: str) -> Draw:
        """The lots of this prompt's next attempt."""
        digest = hashlib.blake2b(prompt.encode(), digest_size=16).digest()
        attempt = self._attempts[digest] = self._attempts.get(digest, 0) + 1
        lots = hashlib.blake2b(digest + f"{self._seed}:{attempt}".encode(), digest_size=32).digest()
        return Draw(_fraction(lots[:8]), _fraction(lots[8:16]), lots[16:].hex())

    def forget(self) -> None:
        """Every prompt's next attempt is its first again."""
        self._attempts.clear()


@dataclass(frozen=True, slots=True)
class Latency:
    """Log-normal latencies: their mean in seconds, and the spread of their logarithm."""

    mean_s: float = 0.0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.mean_s < math.inf and 0 <= self.sigma < math.inf):
            raise ValueError("mean_s and sigma must be numbers that are not negative")

    def at(self, lot: float) -> float:
        """The latency in seconds below which a share ``lot`` of all calls falls."""
        if not self.mean_s:
            return 0.0
        spread = self.sigma * _NORMAL.inv_cdf(lot)
        return self.mean_s * math.exp(spread - self.sigma**2 / 2)


def _fraction(lot: bytes) -> float:
    # Of 52 bits, and never 0 or 1: the quantiles of a normal distribution are infinite there.
    return ((int.from_bytes(lot, "big") >> 12) + 0.5) / (_WORD >> 12)
