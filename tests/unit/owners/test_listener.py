"""Which worker gives no sign of life, and the protocol with supervisord."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from qaworker.owners.listener import SILENT_S, Listener, Signs
from qaworker.owners.supervisor_rpc import Program, Remote

TICK_S = 5.0


class Ticks:
    """Tells :class:`Signs` the same every five seconds."""

    def __init__(self) -> None:
        self.signs = Signs()
        self.now_s = 1000.0

    def pass_s(self, seconds: float, running: set[int], living: set[int] | None) -> set[int]:
        """What the last tick of that time found."""
        silent: set[int] = set()
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            silent = self.signs.silent(running, living, self.now_s)
        return silent


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


def test_a_worker_whose_beats_end_is_silent_after_a_minute(ticks: Ticks) -> None:
    assert not ticks.pass_s(300, {1, 2}, {1, 2})
    assert not ticks.pass_s(SILENT_S, {1, 2}, {2})
    assert ticks.pass_s(TICK_S, {1, 2}, {2}) == {1}


def test_a_worker_that_never_beats_is_silent_a_minute_after_it_was_first_seen(ticks: Ticks) -> None:
    assert not ticks.pass_s(SILENT_S, {1}, set())
    assert ticks.pass_s(2 * TICK_S, {1}, set()) == {1}


def test_the_process_in_place_of_a_silent_one_has_a_minute_of_its_own(ticks: Ticks) -> None:
    assert ticks.pass_s(2 * SILENT_S, {1}, set()) == {1}
    assert not ticks.pass_s(SILENT_S, {2}, set())


def test_nobody_is_silent_while_redis_is_away_nor_for_a_minute_after(ticks: Ticks) -> None:
    ticks.pass_s(SILENT_S, {1}, set())
    assert not ticks.pass_s(600, {1}, None)
    assert not ticks.pass_s(SILENT_S, {1}, set())
    assert ticks.pass_s(2 * TICK_S, {1}, set()) == {1}


def test_a_host_that_stood_still_is_not_held_against_its_workers(ticks: Ticks) -> None:
    ticks.pass_s(SILENT_S, {1}, {1})
    ticks.now_s += 3600
    assert not ticks.pass_s(SILENT_S, {1}, set())


EVENT = "ver:3.0 server:supervisor serial:21 pool:listener poolserial:10 eventname:TICK_5 len:15\n"


def test_nothing_but_the_protocol_is_said_and_an_obstacle_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QAWORKER_RUNTIME_DIR", str(tmp_path))
    answers = io.StringIO()
    events = io.StringIO(f"{EVENT}when:1201063880{EVENT}when:1201063885")
    with capture_logs() as logged:
        Listener().listen(events, answers)
    assert answers.getvalue() == "READY\nRESULT 2\nOKREADY\nRESULT 2\nOKREADY\n"
    assert [event["event"] for event in logged] == ["workers_not_watched"]
    assert capsys.readouterr().out == ""


class Calls(Remote):
    """A supervisord that has these programs, and remembers what it is told."""

    def __init__(self, *programs: Program) -> None:
        self.listed = list(programs)
        self.told: list[tuple[str, ...]] = []

    def call(self, method: str, *arguments: str | bool) -> None:
        self.told.append((method, str(arguments[0])))


@pytest.mark.parametrize(("exit_code", "is_tried"), [(0, True), (78, False)])
def test_what_failed_is_tried_again_once_the_settings_are_valid(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exit_code: int, is_tried: bool
) -> None:
    program = tmp_path / "qaworker"
    program.write_text(f'#!/bin/sh\n[ "$*" = "config --check" ] && exit {exit_code}\n', "utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    failed = Program("qa_worker-1", 1, 0, "FATAL", 0, False, 60, "no such program")
    # That a setting is wrong it has said itself, by its exit code: starting would not correct it.
    wrong = Program("qa_worker-2", 2, 0, "EXITED", 78, False, 60, "")
    supervisord = Calls(failed, wrong)
    Listener()._retry_failed(supervisord.listed, supervisord, 1000.0)
    tried = [("startProcess", "qa_worker-1:qa_worker-1")]
    assert supervisord.told == (tried if is_tried else [])
