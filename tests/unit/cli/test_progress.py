from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console

from qaworker.cli.progress import ASK_EVERY_S, SILENCE_S, Lines
from qaworker.store.tally import Counts

REASON = "workers call nobody for now: the API answered 429 [quota]"


def counts(settled: int) -> Counts:
    """Of a run of nine chunks."""
    values: dict[str, Any] = dict.fromkeys((field.name for field in fields(Counts)), 0)
    return Counts(**values | {"chunks": 9, "ok": settled})


class Shown:
    """A display with a clock, and workers, of the test's own."""

    def __init__(self, held: Sequence[str] = ()) -> None:
        self.now_s = 0.0
        self.held = held
        self.asked = 0
        self._text = io.StringIO()
        console = Console(file=self._text, width=200)
        self._lines = Lines(console, 0, self._ask, clock=lambda: self.now_s)

    def _ask(self) -> Sequence[str]:
        self.asked += 1
        return self.held

    def lines_after(self, seconds: float, settled: int = 0) -> list[str]:
        """What is said within so many seconds, the driver's rounds being a second apart."""
        begin = len(self._text.getvalue())
        end = self.now_s + seconds
        while self.now_s < end:
            self._lines.tell(counts(settled))
            self.now_s += 1
        return [line for line in self._text.getvalue()[begin:].splitlines() if "/9" not in line]


def test_why_workers_call_nobody_is_said_at_once_and_once() -> None:
    shown = Shown()
    assert shown.lines_after(ASK_EVERY_S) == []
    shown.held = (REASON,)
    assert shown.lines_after(2 * ASK_EVERY_S) == [REASON]
    assert shown.asked <= 3
    shown.held = ()
    assert shown.lines_after(ASK_EVERY_S) == []
    shown.held = (REASON,)
    assert shown.lines_after(ASK_EVERY_S) == [REASON]


def test_a_run_that_stands_still_says_why() -> None:
    shown = Shown((REASON,))
    lines = shown.lines_after(SILENCE_S + 5)
    assert lines[1:] == [f"no chunk has ended for {SILENCE_S:.0f} s: {REASON}"]


def test_where_nobody_knows_why_it_says_where_to_look() -> None:
    lines = Shown().lines_after(SILENCE_S + 5)
    assert lines == [f"no chunk has ended for {SILENCE_S:.0f} s: see `qaworker check`"]


def test_a_run_that_moves_is_not_said_to_stand_still() -> None:
    shown = Shown()
    assert [shown.lines_after(SILENCE_S - 1, settled=n) for n in range(3)] == [[]] * 3
