"""Who a process is, and that nobody else is signalled in its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from qaworker.owners import processes
from qaworker.owners.processes import MARKER, Process
from tests.support.processes import begun
from tests.support.waiting import wait_until

pytestmark = pytest.mark.skipif(not processes.is_supported(), reason="it is a feature of Linux")


@pytest.fixture
def child(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that carries the mark of the installation in tmp_path."""
    env = {MARKER: str(tmp_path), "PATH": os.environ["PATH"]}
    with begun(["sleep", "300"], env=env) as started:
        yield started


def of(child: subprocess.Popen[bytes]) -> Process:
    process = Process.of(child.pid)
    assert process
    return process


def test_a_process_is_signalled(child: subprocess.Popen[bytes]) -> None:
    process = of(child)
    assert process.command == "sleep 300"
    assert process.send(signal.SIGTERM)
    process.wait(10)
    # Nobody has waited for it yet: a zombie does not run.
    assert not process.is_running
    assert not processes.exists(child.pid)
    assert child.wait() == -signal.SIGTERM
    assert Process.of(child.pid) is None
    assert not process.send(signal.SIGTERM)


@pytest.mark.parametrize("change", [{"started": 1}, {"boot_id": "other"}, {"instance": "/other"}])
def test_a_process_that_differs_in_anything_is_not(
    child: subprocess.Popen[bytes], change: dict[str, object]
) -> None:
    other = replace(of(child), **change)  # type: ignore[arg-type]
    assert not other.send(signal.SIGKILL)
    assert of(child).is_running


def test_the_mark_finds_processes_of_one_installation(
    child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert processes.marked(tmp_path) == [of(child)]
    assert processes.marked(tmp_path.parent) == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert processes.marked(link.resolve()) == [of(child)]


def test_who_asks_is_not_found(tmp_path: Path) -> None:
    """A stop that a worker's own environment started does not end itself."""
    script = "from pathlib import Path; from qaworker.owners.processes import marked;"
    script += f"print(marked(Path({str(tmp_path)!r})))"
    env = os.environ | {MARKER: str(tmp_path)}
    command = ["sh", "-c", 'exec 3>&1; "$0" -c "$1" >&3; true', sys.executable, script]
    assert subprocess.run(command, env=env, capture_output=True, check=True).stdout == b"[]\n"


def test_whoever_has_the_number_of_one_that_ended_is_not_looked_at(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be another user's, whose environment is not shown."""
    ended = replace(of(child), started=1)

    def refuse(pid: int) -> str:
        raise PermissionError(pid)

    monkeypatch.setattr(processes, "_instance", refuse)
    assert not ended.send(signal.SIGTERM)


def test_the_mark_of_a_process_in_a_container_is_not_ours(
    child: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """There the installation has the same directory."""
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a process namespace of its own takes root")
    said = tmp_path / "said"
    script = 'echo up > "$0"; read -r end'
    with subprocess.Popen(
        [*apart, "--kill-child", "sh", "-c", script, str(said)],
        stdin=subprocess.PIPE,
        env={MARKER: str(tmp_path), "PATH": os.environ["PATH"]},
    ) as container:
        wait_until(said.exists, 10, "the process in the container")
        # The program that made the namespace is outside.
        assert processes.marked(tmp_path) == sorted(
            [of(child), of(container)], key=lambda process: process.pid
        )
        container.communicate(b"end\n", 10)


def test_a_group_belongs_to_who_began_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        ["sh", "-c", "sleep 300 & wait"], start_new_session=True, env={MARKER: str(tmp_path)}
    ) as leader:
        wait_until(lambda: len(processes.marked(tmp_path)) == 2, 10, "the child")
        found = processes.marked(tmp_path)
        assert [one for one in found if not of(leader).leads(one)] == [of(leader)]
        me = Process.of(os.getpid())
        assert me
        assert not of(leader).leads(me)
        os.killpg(leader.pid, signal.SIGKILL)
