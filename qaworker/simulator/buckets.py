"""Strict rate limits: continuous buckets that hold one second's capacity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qaworker.simulator.replies import ErrorReply, Refused

SECONDS_PER_MINUTE = 60.0


class Bucket:
    """Fills at ``per_minute`` / 60 units a second, and holds one second's units.

    What costs more than the bucket holds is let through when it is full and leaves it in debt, so
    that the rate over any longer time is exact.
    """

    def __init__(self, per_minute: float, now: float) -> None:
        self.per_minute = per_minute
        self.rate = per_minute / SECONDS_PER_MINUTE
        self.level = self.rate
        self._at = now

    def wait_s(self, cost: float, now: float) -> float:
        """Seconds until ``cost`` would be let through: 0 for now, infinite for never."""
        self.level = min(self.rate, self.level + (now - self._at) * self.rate)
        self._at = now
        if cost > max(self.per_minute, 1):
            return math.inf
        wait_s = (min(cost, self.rate) - self.level) / self.rate
        # What is shorter is rounding: a client that waited as told must not be refused for it.
        return wait_s if wait_s > 1e-6 else 0.0  # noqa: PLR2004, the line above says it

    def take(self, cost: float) -> None:
        """Take ``cost`` units, or give them back when it is negative."""
        self.level = min(self.rate, self.level - cost)

    def headers(self, name: str) -> dict[str, str]:
        """What the API says of this limit."""
        return {
            f"x-ratelimit-limit-{name}": f"{self.per_minute:.0f}",
            f"x-ratelimit-remaining-{name}": str(max(0, math.floor(self.level))),
            f"x-ratelimit-reset-{name}": _duration((self.rate - self.level) / self.rate),
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens a minute of each model; 0 for no limit."""

    rpm: float = 0
    tpm: float = 0

    def __post_init__(self) -> None:
        if not (0 <= self.rpm < math.inf and 0 <= self.tpm < math.inf):
            raise ValueError("rpm and tpm must be numbers that are not negative; 0 is no limit")


class Gate:
    """Admits the calls of one model."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._clock = clock
        now = clock()
        self._buckets = {
            name: Bucket(per_minute, now)
            for name, per_minute in (("requests", limits.rpm), ("tokens", limits.tpm))
            if per_minute
        }

    def admit(self, tokens: int) -> None:
        """Take one request and ``tokens`` (the prompt's and the output cap's), or neither.

        Raises:
            Refused: 429, with the time to wait; without one when the request exceeds a minute's
                tokens and would never be admitted (the API says 429 then too).
        """
        if not self._buckets:
            return
        now = self._clock()
        costs = {"requests": 1, "tokens": tokens}
        waits_s = {name: one.wait_s(costs[name], now) for name, one in self._buckets.items()}
        name = max(waits_s, key=waits_s.__getitem__)
        if waits_s[name]:
            raise Refused(self._refusal(name, costs[name], waits_s[name]))
        for name, bucket in self._buckets.items():
            bucket.take(costs[name])

    def settle(self, reserved: int, used: int) -> None:
        """Correct the tokens taken at admission to those that were used."""
        if bucket := self._buckets.get("tokens"):
            bucket.wait_s(0, self._clock())
            bucket.take(used - reserved)

    def headers(self) -> Mapping[str, str]:
        """``x-ratelimit-*`` of the limits that are set."""
        return {
            header: value
            for name, bucket in self._buckets.items()
            for header, value in bucket.headers(name).items()
        }

    def _refusal(self, name: str, cost: int, wait_s: float) -> ErrorReply:
        limit = f"{name} per min: Limit {self._buckets[name].per_minute:.0f}, Requested {cost}."
        headers = dict(self.headers())
        if math.isinf(wait_s):
            message = f"Request too large on {limit}"
        else:
            message = f"Rate limit reached on {limit} Please try again in {_duration(wait_s)}."
            headers["Retry-After"] = str(math.ceil(wait_s))
            headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
        return ErrorReply(429, "rate_limit_exceeded", name, message, headers=headers)


def _duration(seconds: float) -> str:
    """As OpenAI writes durations: ``12ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, SECONDS_PER_MINUTE)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:.3g}s"
