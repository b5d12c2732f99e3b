"""The faults the simulator can show, and how often it shows each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qaworker.simulator.replies import INVALID_REQUEST, ErrorReply

REFUSALS: Final = {
    "429": ErrorReply(
        429,
        "rate_limit_exceeded",
        "requests",
        "Rate limit reached (simulated). Please try again in 1s.",
        headers={"Retry-After": "1", "retry-after-ms": "1000"},
    ),
    "500": ErrorReply(
        500,
        None,
        "server_error",
        "The server had an error while processing your request (simulated).",
    ),
    "503": ErrorReply(
        503,
        "server_is_overloaded",
        "server_error",
        "The server is overloaded or not ready yet (simulated).",
    ),
    "quota": ErrorReply(
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details (simulated).",
    ),
    "auth": ErrorReply(
        401, "invalid_api_key", INVALID_REQUEST, "Incorrect API key provided (simulated)."
    ),
}
"""Faults that answer with an error at once: generation does not begin."""

KINDS: Final = (
    *REFUSALS,
    "timeout",
    "reset",
    "truncated",
    "malformed",
    "refusal",
    "content_filter",
    "slow",
)
SLOW_FACTOR: Final = 10
HANG_S: Final = 300.0
"""The longest a call that is never answered is held."""


@dataclass(frozen=True, slots=True)
class FaultRates:
    """Kind -> share of calls that meet it."""

    rates: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, rates: Mapping[str, object]) -> FaultRates:
        """Check a mapping of kinds to shares.

        Raises:
            ValueError: an unknown kind, a share outside 0..1, or more than 1 in all.
        """
        checked: dict[str, float] = {}
        for kind, rate in rates.items():
            if kind not in KINDS:
                raise ValueError(f"unknown fault {kind!r}: use one of {', '.join(KINDS)}")
            if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise ValueError(f"the rate of fault {kind!r} must be a number from 0 to 1")
            checked[kind] = float(rate)
        if sum(checked.values()) > 1 + 1e-9:
            raise ValueError("the rates of all faults together must not exceed 1")
        return cls(tuple((kind, checked[kind]) for kind in KINDS if checked.get(kind)))

    def pick(self, lot: float) -> str:
        """The kind that a lot in (0, 1) falls on, or an empty string for none."""
        for kind, rate in self.rates:
            if lot < rate:
                return kind
            lot -= rate
        return ""
