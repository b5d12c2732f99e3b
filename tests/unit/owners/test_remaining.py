"""Whose a worker is that runs on after a stop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qaworker.errors import NotAllowed
from qaworker.owners import processes, remaining
from qaworker.owners.processes import MARKER, Process
from qaworker.store.heartbeats import Beat
from tests.support.processes import begun

pytestmark = pytest.mark.skipif(not processes.is_supported(), reason="it is a feature of Linux")


def said_of(pid: int, runtime_dir: Path) -> str:
    beat = Beat(
        name="qa_worker-1@host",
        pid=pid,
        owner="pid",
        pool="threads",
        started_at=0,
        calls_in_flight=0,
        chunks_done=0,
    )
    return remaining.runs_on(beat, runtime_dir)


@pytest.mark.parametrize(
    ("mark", "words"),
    [
        ("HERE", "start_celery.sh stop --force ends it"),
        ("/other", "it is of the installation in /other"),
        (None, "was started by hand: kill -TERM"),
    ],
)
def test_the_mark_of_its_process_tells(tmp_path: Path, mark: str | None, words: str) -> None:
    env = {MARKER: mark.replace("HERE", str(tmp_path))} if mark else {"PATH": os.environ["PATH"]}
    with begun(["sleep", "300"], env=env) as worker:
        assert words in said_of(worker.pid, tmp_path)


def test_another_users_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise NotAllowed(str(pid))

    monkeypatch.setattr(Process, "of", refuse)
    assert "it is another user's" in said_of(4711, tmp_path)
