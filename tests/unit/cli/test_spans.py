from __future__ import annotations

from datetime import timedelta

import click
import pytest

from qaworker.cli.spans import span


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("2h", timedelta(hours=2)),
        ("7d", timedelta(days=7)),
        ("0s", timedelta()),
    ],
)
def test_a_span_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    assert span(text) == expected


@pytest.mark.parametrize("text", ["", "1", "h", "1w", "-1h", "1.5h", "１h", "1 h", "9999999d"])
def test_what_is_none_is_said(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a number with s, m, h or d, such as 30m"):
        span(text)
