from __future__ import annotations

import pytest

from qaworker.cli.table import printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain, 日本語　全角", "plain, 日本語　全角"),
        ("two\nlines\ttab", r"two\nlines\ttab"),
        ("\x1b[2J\x9b2J", r"\x1b[2J\x9b2J"),
        ("\u202eright to left", r"\u202eright to left"),
    ],
)
def test_what_would_move_the_cursor_is_escaped(text: str, expected: str) -> None:
    assert printable(text) == expected
