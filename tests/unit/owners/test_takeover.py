"""A stop by force takes the lock from a command that is at work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qaworker.errors import Busy
from qaworker.owners import processes, takeover
from qaworker.owners.lock import LOCK_NAME, locked
from qaworker.owners.processes import MARKER, Process
from qaworker.owners.takeover import taken_over
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not processes.is_supported(), reason="it is a feature of Linux")

# Holds the lock, has a child that is no worker and one that is.
RESTART = """
import subprocess, sys
from pathlib import Path
from qaworker.owners.lock import locked
here, mark = sys.argv[1:]
with locked(Path(here), "restart"):
    supervisord = subprocess.Popen(["sleep", "300"])
    worker = subprocess.Popen(["sleep", "300"], env={mark: here})
    print(supervisord.pid, worker.pid, flush=True)
    supervisord.wait()
"""


def test_who_holds_the_lock_is_killed_and_its_workers_are_left_to_their_owner(
    tmp_path: Path,
) -> None:
    env = {name: value for name, value in os.environ.items() if name != MARKER}
    command = [sys.executable, "-c", RESTART, str(tmp_path), MARKER]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as restart:
        assert restart.stdout
        wait_until(lambda: processes.marked(tmp_path), 10, "the worker's mark")
        supervisord, worker = (
            Process.of(int(pid)) for pid in restart.stdout.readline().decode().split()
        )
        assert supervisord
        assert worker
        with (tmp_path / LOCK_NAME).open() as reader:
            with taken_over(tmp_path, "stop --force"):
                assert restart.wait(10) < 0
                with pytest.raises(Busy, match="stop --force"), locked(tmp_path, "start"):
                    pass
            assert not reader.closed
        wait_until(lambda: not supervisord.is_running, 10, "the end of what it was starting")
        assert processes.marked(tmp_path) == [worker]
        os.kill(worker.pid, 9)


def test_a_holder_that_is_not_to_be_seen_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is the very process that asks."""
    monkeypatch.setattr(takeover, "_END_S", 0.0)
    with (
        locked(tmp_path, "restart"),
        pytest.raises(Busy, match="restart, process"),
        taken_over(tmp_path, "stop --force"),
    ):
        pass
