"""One look's notices, and channels that refuse, hang or take them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from qaworker.monitor.channels import Message, NotSent
from qaworker.monitor.incidents import Record
from qaworker.monitor.judging import Problem
from qaworker.monitor.telling import tell


class Somebody:
    """A channel that takes everything."""

    def __init__(self, name: str) -> None:
        self.name = name

    def send(self, message: Message) -> None:
        assert message.host == "here"


class Refuser(Somebody):
    def send(self, message: Message) -> None:  # noqa: ARG002
        raise NotSent("no such channel")


class Sleeper(Somebody):
    """Takes nothing while the test lasts."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.woken = threading.Event()

    def send(self, message: Message) -> None:
        self.woken.wait()
        super().send(message)


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    sleeper = Sleeper("sleeper")
    yield sleeper
    sleeper.woken.set()


@pytest.fixture
def record() -> Record:
    """Something to tell."""
    record = Record()
    record.update({"workers": Problem("critical", "no worker lives")}, 1.0)
    return record


def test_who_hangs_or_refuses_keeps_nobody_else_from_being_told(
    record: Record, sleeper: Sleeper
) -> None:
    written: list[dict[str, str]] = []
    troubles = tell(
        record,
        [sleeper, Refuser("refuser"), Somebody("one"), Somebody("two")],
        "here",
        lambda: written.append(dict(record.incidents["workers"].told)),
        timeout_s=0.5,
    )
    assert troubles == [
        "nobody was told: no such channel",
        "nobody was told: sleeper: no answer within 0.5 s",
    ]
    assert [len(told) for told in written] == [1, 2]
    assert written[-1] == {"one": "opened", "two": "opened"}


def test_the_process_ends_though_a_channel_hangs() -> None:
    script = """
from tests.unit.monitor.test_telling import Sleeper, record, tell
print(tell(record.__wrapped__(), [Sleeper("sleeper")], "here", lambda: None, 0.1))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert "no answer" in done.stdout
