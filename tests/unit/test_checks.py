from __future__ import annotations

import pytest

from qaworker.checks import CheckFailed, Finding, finding
from qaworker.errors import StoreUnavailable


def test_what_a_check_returns_is_its_finding() -> None:
    assert finding("api", lambda: "it answers") == Finding("api", True, "it answers")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CheckFailed("free some"), "free some"),
        (StoreUnavailable("Redis is away"), "Redis is away"),
        (ValueError("netrc and\nauth"), "ValueError: netrc and auth"),
        (AssertionError(), "AssertionError:"),
    ],
)
def test_whatever_a_check_raises_is_its_finding(error: Exception, text: str) -> None:
    def check() -> str:
        raise error

    assert finding("api", check) == Finding("api", False, text)


@pytest.mark.parametrize("kind", [None, CheckFailed, StoreUnavailable, ValueError])
def test_no_finding_shows_a_secret(kind: type[Exception] | None) -> None:
    def check() -> str:
        text = "http://user:canary@host/v1 offers all"
        if kind is not None:
            raise kind(text)
        return text

    assert finding("api", check).text.endswith("http://***@host/v1 offers all")
