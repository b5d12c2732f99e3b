from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from qaworker import heart, runtime
from qaworker.settings import Settings
from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat
from tests.support.waiting import wait_until

WAIT_S = 10.0


class Process:
    """The worker process around a heart: what it beat, and the signals it sent to itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.beats: list[Beat] = []
        self.signals: list[int] = []
        self._settings = Settings(redis_url=f"unix://{directory}/no.sock", max_chunks=10)
        self._engine = SimpleNamespace(calls_in_flight=1, chunks_done=10, halted_by=None)
        self._running = SimpleNamespace(engine=self._engine)
        monkeypatch.setattr(runtime, "current", lambda: self._running)
        monkeypatch.setattr(heartbeats, "BEAT_INTERVAL_S", 0.01)
        monkeypatch.setattr(heartbeats, "beat", lambda _, state: self.beats.append(state))
        monkeypatch.setattr(heartbeats, "forget", lambda *_: None)
        monkeypatch.setattr(os, "kill", self._kill)
        monkeypatch.setattr(heart, "_heart", None)
        monkeypatch.setattr(heart, "_shutdowns_asked", 0)

    def _kill(self, _pid: int, number: int) -> None:
        self.signals.append(number)
        heart.shutdown_asked()  # as Celery's handler does

    def beat(self, times: int = 3, held_by: Exception | None = None) -> None:
        """Let the heart beat so often."""
        self._engine.halted_by = held_by
        heart.start("worker", self._settings)
        least = len(self.beats) + times
        wait_until(lambda: len(self.beats) >= least, WAIT_S, "beats")
        heart.stop()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Process:
    return Process(monkeypatch, tmp_path)


def test_a_worker_that_did_its_share_is_replaced(process: Process) -> None:
    process.beat()
    assert process.signals == [signal.SIGTERM]
    assert heart.is_to_be_replaced()


def test_who_ends_it_meanwhile_ends_it(process: Process) -> None:
    process.beat()
    heart.shutdown_asked()
    assert not heart.is_to_be_replaced()


def test_a_worker_that_was_told_to_end_asks_for_nothing(process: Process) -> None:
    heart.shutdown_asked()
    process.beat()
    assert process.signals == []
    assert not heart.is_to_be_replaced()


@pytest.mark.parametrize(("error", "held"), [(None, ""), (ValueError("no quota"), "no quota")])
def test_a_beat_says_why_the_worker_calls_nobody(
    process: Process, error: Exception | None, held: str
) -> None:
    process.beat(held_by=error)
    assert {beat.held for beat in process.beats} == {held}
