"""What supervisord says, and what it is when it says nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from qaworker.errors import OwnerError
from qaworker.owners import processes, supervisor_setup
from qaworker.owners.processes import MARKER
from qaworker.owners.supervisor_rpc import NotThere, Program, Remote
from qaworker.owners.supervisord import Supervisord, kill
from tests.support.processes import begun
from tests.support.waiting import wait_until


def program(state: str, exit_status: int = 0, *, is_new: bool = False) -> Program:
    return Program("qa-celery", 1, 0, state, exit_status, is_new, 60, "")


@pytest.mark.parametrize(
    ("given", "is_over", "is_wanted"),
    [
        (program("RUNNING"), False, True),
        (program("BACKOFF"), False, True),
        (program("STOPPING"), False, False),
        (program("STOPPED"), True, False),
        (program("STOPPED", is_new=True), False, True),
        # 0 and 75 are started again, 78 is not.
        (program("EXITED", 0), False, True),
        (program("EXITED", 75), False, True),
        (program("EXITED", 78), True, True),
        (program("FATAL"), True, True),
    ],
)
def test_states(given: Program, is_over: bool, is_wanted: bool) -> None:
    assert (given.is_over, given.is_wanted) == (is_over, is_wanted)


def test_where_nobody_listens_nothing_is_owned(tmp_path: Path) -> None:
    supervisord = Supervisord(tmp_path, tmp_path, 330)
    assert not supervisord.is_available()
    assert supervisord.owned() == []
    assert supervisord.expected() == 0
    assert supervisord.stop_timeout_s() is None
    with pytest.raises(NotThere, match="no supervisord listens"):
        supervisord.restart(1, 1)


def test_one_that_hangs_is_there_and_not_waited_for(tmp_path: Path) -> None:
    supervisord = Supervisord(tmp_path, tmp_path, 330)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "supervisor.sock"))
        hung.listen()
        assert supervisord.is_available()
        started_at = time.monotonic()
        with pytest.raises(OwnerError, match="does not answer"):
            supervisord.owned()
    assert time.monotonic() - started_at < 5


@pytest.mark.parametrize(
    "pid",
    [os.getpid(), -1, 0, 2**22 + 1, "x"],
    ids=["ours", "group", "own group", "no pid", "text"],
)
def test_a_number_that_is_not_surely_its_own_is_not_recommended(
    tmp_path: Path, pid: object
) -> None:
    (tmp_path / "supervisord.pid").write_text(f"{pid}\n")
    assert hung_says(tmp_path).endswith("see its log")


def test_how_to_end_one_that_hangs_is_said(tmp_path: Path) -> None:
    command = ["sh", "-c", "sleep 300; true", "supervisord"]
    env = os.environ | {"QAWORKER_RUNTIME_DIR": str(tmp_path)}
    with begun(command, env=env, start_new_session=True) as it:
        (tmp_path / "supervisord.pid").write_text(f"{it.pid}\n")
        assert hung_says(tmp_path).endswith(f"see its log, or kill -KILL {it.pid}")
        os.killpg(it.pid, signal.SIGKILL)


def hung_says(directory: Path) -> str:
    """How a supervisord that does not answer is complained of."""
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(directory / "supervisor.sock"))
        hung.listen()
        with pytest.raises(OwnerError) as raised:
            Supervisord(directory, directory, 330).owned()
    return str(raised.value)


@pytest.mark.parametrize("name", ["with space", "a[1]", "a*", "a?", "50%", 'a"b', "a\\b"])
def test_a_path_that_its_configuration_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    with pytest.raises(OwnerError, match="set QAWORKER_RUNTIME_DIR"):
        Supervisord(directory, tmp_path, 330).start(1, None)
    with pytest.raises(OwnerError, match="set QAWORKER_LOG_DIR"):
        Supervisord(tmp_path, directory, 330).start(1, None)
    assert not list(tmp_path.iterdir())


def test_a_path_too_long_for_a_socket_is_nobodys(tmp_path: Path) -> None:
    supervisord = Supervisord(tmp_path / ("long" * 30), tmp_path, 330)
    assert not supervisord.is_available()
    with pytest.raises(OwnerError, match="at most 80 bytes"):
        supervisord.start(1, None)


def test_a_launch_that_fails_leaves_no_configuration(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OwnerError("it did not start")

    monkeypatch.setattr(supervisor_setup, "launch", refuse)
    with pytest.raises(OwnerError, match="it did not start"):
        Supervisord(short_path, short_path / "log", 330).start(1, None)
    assert not list(short_path.glob("*.conf"))


class Told(Remote):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | bool, ...]] = []

    def call(self, method: str, *arguments: str | bool) -> None:
        self.calls.append((method, *arguments))


@pytest.mark.parametrize(("mark", "is_killed"), [("HERE", True), ("HERE/other", False)])
def test_only_children_with_the_mark_are_killed(tmp_path: Path, mark: str, is_killed: bool) -> None:
    """The number of the main process may be another's by now."""
    remote = Told()
    env = {MARKER: mark.replace("HERE", str(tmp_path))}
    with subprocess.Popen(
        ["sh", "-c", "sleep 300 & wait"], start_new_session=True, env=env
    ) as main:
        marked_as = Path(env[MARKER])
        wait_until(lambda: len(processes.marked(marked_as)) == 2, 10, "the child")
        child = next(one for one in processes.marked(marked_as) if one.pid != main.pid)
        kill(remote, replace(program("STOPPING"), pid=main.pid), tmp_path)
        assert remote.calls == [("signalProcess", "qa-celery:qa_worker-1", "KILL")]
        if is_killed:
            wait_until(lambda: not child.is_running, 10, "the end of the child")
        assert child.is_running != is_killed
        with suppress(ProcessLookupError):
            os.killpg(main.pid, signal.SIGKILL)
