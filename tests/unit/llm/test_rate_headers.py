from __future__ import annotations

import pytest

from qaworker.llm.rate_headers import Headroom, RateHeaders, rate_headers


def headers(limit: str, remaining: str, reset: str, kind: str = "requests") -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{kind}": limit,
        f"x-ratelimit-remaining-{kind}": remaining,
        f"x-ratelimit-reset-{kind}": reset,
    }


def test_reads_both_limits() -> None:
    said = headers("3500", "3499", "17ms") | headers("200000", "198500", "450ms", "tokens")
    assert rate_headers(said) == RateHeaders(
        Headroom(3500, 3499, 0.017), Headroom(200_000, 198_500, 0.45)
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360),
        ("12ms", 0.012),
        ("1.5s", 1.5),
        ("1h2m3s", 3723),
        ("1d0h0m1s", 86_401),
        ("2m", 120),
        ("1s12ms", 1.012),
        ("7", 7),
        ("0s", 0),
        ("", None),
        ("soon", None),
        ("1.2.3s", None),
        ("-1", None),
        ("٣s", 3),
    ],
)
def test_reads_durations(text: str, seconds: float | None) -> None:
    reset_s = rate_headers(headers("60", "59", text)).requests.reset_s
    assert reset_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("limit", ["", "0", "-1", "many", "nan", "inf"])
def test_what_is_no_limit_was_not_said(limit: str) -> None:
    said = rate_headers(headers(limit, "0", "0s"))
    assert said.requests.limit is None
    assert said.requests.per_minute is None


def test_nothing_was_said() -> None:
    assert rate_headers({}) == RateHeaders(Headroom(), Headroom())


@pytest.mark.parametrize(
    ("limit", "remaining", "reset", "is_of_a_minute"),
    [
        ("10000", "9999", "6ms", True),
        ("10000", "9999", "8.64s", False),  # a day's: the next is there after 8.64 s
        ("200", "150", "6h0m0s", False),
        ("60", "59", "1s", True),
        ("3500", "0", "1s", True),  # of a bucket that holds less than a minute's
        ("30000000", "29999999", "1ms", True),  # rounded up
        ("500", "500", "0s", True),
        ("500", "", "", True),
    ],
)
def test_a_limit_of_a_day_is_none_of_a_minute(
    limit: str, remaining: str, reset: str, is_of_a_minute: bool
) -> None:
    per_minute = rate_headers(headers(limit, remaining, reset)).requests.per_minute
    assert per_minute == (float(limit) if is_of_a_minute else None)
