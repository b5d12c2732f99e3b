"""The last lines of several logs."""

from __future__ import annotations

from pathlib import Path

from qaworker.owners.log_files import last_lines


def test_lines_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    one, two = tmp_path / "1.log", tmp_path / "2.log"
    one.write_text("2026-01-01T00:00:01Z a\nTraceback\n\n2026-01-01T00:00:03Z d\n")
    two.write_text('{"event": "c", "timestamp": "2026-01-01T00:00:02.5Z"}\n')
    assert last_lines([two, one], 3) == [
        "Traceback",
        '{"event": "c", "timestamp": "2026-01-01T00:00:02.5Z"}',
        "2026-01-01T00:00:03Z d",
    ]


def test_what_was_said_before_the_log_was_open_is_the_last(tmp_path: Path) -> None:
    old, new = tmp_path / "1.log", tmp_path / "2.log"
    old.write_text("2026-01-01T00:00:01Z ended\nqaworker: OPENAI_API_KEY is not set\n")
    new.write_text("2026-01-01T00:00:09Z works\n")
    assert last_lines([old, new], 1) == ["qaworker: OPENAI_API_KEY is not set"]


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    log = tmp_path / "1.log"
    log.write_text("".join(f"2026-01-01T00:00:00.{n:06} line\n" for n in range(100_000)))
    assert last_lines([log], 1) == ["2026-01-01T00:00:00.099999 line"]


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert last_lines([tmp_path / "gone.log"], 5) == []
    assert last_lines([], 5) == []
