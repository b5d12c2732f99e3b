"""What the provider says of its rate limits in the headers of an answer.

``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, as at
https://platform.openai.com/docs/guides/rate-limits; compatible servers leave them out, and Azure
has said -1 and 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qaworker.errors import Reported

_DURATION: Final = re.compile(
    r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?"
)
_UNITS_S: Final = (86_400.0, 3600.0, 60.0, 1.0, 0.001)
# A minute's limit is full again after a minute; a day's after a day.
_LONGEST_WINDOW_S: Final = 600.0
_RESOLUTION_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Headroom:
    """One limit: of requests or of tokens; None for what was not said."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None
    """Until all of the limit is available again."""

    @property
    def per_minute(self) -> float | None:
        """The limit; None where it is one of another span: some accounts are told that of a day."""
        if self.limit is None or self.remaining is None or self.reset_s is None:
            return self.limit
        taken = self.limit - self.remaining
        reset_s = self.reset_s - _RESOLUTION_S
        is_longer = taken > 0 and reset_s * self.limit / taken > _LONGEST_WINDOW_S
        return None if is_longer else self.limit


@dataclass(frozen=True, slots=True)
class RateHeaders:
    """Both limits."""

    requests: Headroom
    tokens: Headroom


def rate_headers(headers: Mapping[str, str]) -> RateHeaders:
    """Read an answer's headers; what is absent, not a number, 0 or less was not said.

    Args:
        headers: with names in lower case, or a mapping that does not mind.
    """
    return RateHeaders(_headroom(headers, "requests"), _headroom(headers, "tokens"))


def reported(headers: Mapping[str, str]) -> Reported:
    """The limits a minute that an answer's headers say are in force."""
    rates = rate_headers(headers)
    return rates.requests.per_minute, rates.tokens.per_minute


def _headroom(headers: Mapping[str, str], name: str) -> Headroom:
    limit = _number(headers.get(f"x-ratelimit-limit-{name}", ""))
    return Headroom(
        limit or None,
        _number(headers.get(f"x-ratelimit-remaining-{name}", "")),
        _duration_s(headers.get(f"x-ratelimit-reset-{name}", "")),
    )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 <= number < math.inf else None


def _duration_s(text: str) -> float | None:
    """``6m0s``, ``1.5s``, ``12ms``; a plain number is seconds."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return _number(text)
    try:
        parts = [float(part) if part else 0.0 for part in match.groups()]
    except ValueError:  # 1.2.3s
        return None
    return sum(part * unit_s for part, unit_s in zip(parts, _UNITS_S, strict=True))
