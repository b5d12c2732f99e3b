from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis import Redis

from qaworker import consumer, heart, runtime
from qaworker.consumer import Pulse
from qaworker.errors import StoreUnavailable
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
        self.is_to_be_quiet = False
        self.redis_is_away = False
        self.settings = Settings(redis_url=f"unix://{directory}/no.sock", max_chunks=10)
        self.engine = SimpleNamespace(
            calls_in_flight=1,
            calls_waiting=3,
            oldest_wait_s=12.34,
            chunks_done=10,
            halted_by=None,
            answered_at=time.monotonic(),
            ping=lambda: None,
            give_back=lambda: self.given_back.append(True),
        )
        self.given_back: list[bool] = []
        self._running = SimpleNamespace(engine=self.engine)
        monkeypatch.setattr(runtime, "current", lambda: self._running)
        monkeypatch.setattr(heartbeats, "BEAT_INTERVAL_S", 0.01)
        monkeypatch.setattr(heartbeats, "greet", lambda *_: None)
        monkeypatch.setattr(heartbeats, "beat", self._beat)
        monkeypatch.setattr(heartbeats, "forget", lambda *_: None)
        monkeypatch.setattr(os, "kill", self._kill)
        monkeypatch.setattr(heart, "_heart", None)
        monkeypatch.setattr(heart, "_was_asked_early", False)
        monkeypatch.setattr(consumer, "pulse", Pulse())
        monkeypatch.setattr(heart, "pulse", consumer.pulse)

    def _kill(self, _pid: int, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGTERM:
            heart.shutdown_asked()  # as Celery's handler does

    def _beat(self, _redis: object, state: Beat) -> bool:
        self.beats.append(state)
        if self.redis_is_away:
            raise StoreUnavailable
        return self.is_to_be_quiet

    def beat(self, times: int = 3, held_by: Exception | None = None) -> None:
        """Let the heart beat so often."""
        self.engine.halted_by = held_by
        heart.start("worker", self.settings)
        least = len(self.beats) + times
        wait_until(lambda: len(self.beats) >= least, WAIT_S, "beats")
        heart.stop()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Process:
    return Process(monkeypatch, tmp_path)


def test_memory_is_that_of_the_process_and_its_children() -> None:
    """A prefork pool's children do the work, and are what grows."""
    before_mib = heart.resident_mib()
    grows = "import sys; held = bytearray(64 << 20); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", grows], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == b"ready\n"
        assert 64 <= heart.resident_mib() - before_mib < 200
        child.communicate()
    assert heart.resident_mib() - before_mib < 64


def test_a_worker_that_did_its_share_is_replaced(process: Process) -> None:
    process.beat()
    assert process.signals == [signal.SIGTERM]
    assert heart.is_to_be_replaced()


def test_a_quiet_worker_is_not_replaced(process: Process) -> None:
    process.is_to_be_quiet = True
    process.beat()
    assert process.signals == []


def test_a_worker_obeys_and_says_what_it_does(process: Process) -> None:
    process.is_to_be_quiet = True
    heart.shutdown_asked()
    process.beat()
    assert consumer.pulse.is_to_be_quiet
    assert {beat.state for beat in process.beats[1:]} == {"draining"}
    assert (process.beats[-1].calls_waiting, process.beats[-1].oldest_wait_s) == (3, 12.3)


class Clock:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = time.monotonic()

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("away_s", "is_well"), [(0.0, False), (600.0, True)], ids=["hangs", "broker away"]
)
def test_a_loop_that_stands_still_is_a_hang_unless_the_broker_is_away(
    process: Process, monkeypatch: pytest.MonkeyPatch, away_s: float, is_well: bool
) -> None:
    """The Redis of the heartbeats answers all the while."""
    clock = Clock()
    monkeypatch.setattr(heart, "time", clock)
    back_at = clock.now_s + away_s
    apart = process.settings.model_copy(update={"broker_url": "unix:///broker.sock"})
    asked: list[str] = []

    def check_writable(redis: Redis) -> None:
        asked.append(redis.connection_pool.connection_kwargs["path"])
        if clock.now_s < back_at:
            raise StoreUnavailable

    monkeypatch.setattr(heart, "check_writable", check_writable)
    watched = heart.Heart("worker", apart)
    were_well = []
    # Celery connects again up to 30 s after the broker is back.
    while clock.now_s < back_at + 30 + (0 if is_well else heart.HUNG_AFTER_S):
        clock.now_s += 5
        process.engine.answered_at = clock.now_s
        watched._look_for_the_broker()
        were_well.append(watched._is_well())
    assert were_well[-1] == is_well
    assert all(were_well) == is_well
    assert set(asked) == {"/broker.sock"}


def test_a_loop_that_turns_does_without_a_look_for_the_broker(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(heart, "check_writable", asked.append)
    monkeypatch.setattr(heartbeats, "BEAT_INTERVAL_S", 5.0)
    heart.Heart("worker", process.settings)._look_for_the_broker()
    assert not asked


def test_an_engine_that_does_not_answer_is_a_hang(process: Process) -> None:
    watched = heart.Heart("worker", process.settings)
    assert watched._is_well()
    process.engine.answered_at -= 2 * heart.HUNG_AFTER_S
    assert not watched._is_well()
    watched.shutdown_asked()
    assert watched._is_well()


def test_a_drain_that_outlasts_the_hard_limit_is_cut_short_once(process: Process) -> None:
    watched = heart.Heart("worker", process.settings)
    limit_s = process.settings.task_hard_limit_s
    for draining_s, signals in (
        (limit_s, []),
        (limit_s + heart.DRAIN_GRACE_S, [signal.SIGQUIT]),
        (limit_s + 2 * heart.DRAIN_GRACE_S, [signal.SIGQUIT]),
    ):
        watched._watch_the_end(draining_s)
        assert process.signals == signals


def test_to_end_now_is_to_give_back_and_to_end(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    gave_up: list[bool] = []
    monkeypatch.setattr(heart, "_exit", lambda: gave_up.append(True))
    monkeypatch.setattr(heart, "END_GRACE_S", 0.01)
    monkeypatch.setattr(heart, "_heart", heart.Heart("worker", process.settings))
    heart.end_now()
    wait_until(lambda: gave_up, WAIT_S, "the end")
    assert process.given_back == [True]
    assert process.signals == [signal.SIGTERM]


@pytest.mark.parametrize(
    ("marks", "owner"),
    [
        ({}, "none"),
        ({"QAWORKER_INSTANCE": "/run/qaworker"}, "pid"),
        ({"QAWORKER_INSTANCE": "/run/qaworker", "NOTIFY_SOCKET": "/run/s"}, "systemd"),
        ({"SUPERVISOR_ENABLED": "1", "NOTIFY_SOCKET": "/run/s"}, "supervisor"),
    ],
)
def test_the_owner_is_told_by_its_marks(
    monkeypatch: pytest.MonkeyPatch, marks: dict[str, str], owner: str
) -> None:
    for mark in ("QAWORKER_INSTANCE", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED"):
        monkeypatch.delenv(mark, raising=False)
    for mark, value in marks.items():
        monkeypatch.setenv(mark, value)
    assert heart.owner() == owner


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
