from __future__ import annotations

import io
import sys

import pytest

from qaworker.cli.table import printable, show, table, width


def test_text_stands_left_and_numbers_right() -> None:
    assert table(("name", "tasks"), [("a", 7), ("longer", 1200)]).splitlines() == [
        "name    tasks",
        "a           7",
        "longer   1200",
    ]


def test_columns_are_aligned_where_characters_are_wide() -> None:
    lines = table(("ワーカー", "状態", "件"), [("qa_worker-1", "稼働中", 3)]).splitlines()
    assert lines == ["ワーカー     状態    件", "qa_worker-1  稼働中   3"]
    assert len({width(line) for line in lines}) == 1


def test_without_rows_there_are_headings() -> None:
    assert table(("name", "tasks"), []) == "name  tasks"


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "✓ 起動中"), ("latin-1", "? ???")])
def test_what_a_terminal_does_not_have_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, encoding: str, shown: str
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    show("✓ 起動中")
    terminal.seek(0)
    assert terminal.read() == f"{shown}\n"


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
