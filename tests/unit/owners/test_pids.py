"""PID files: what is ours, what is stale, and what neither."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from qaworker.errors import NotAllowed, OwnerError
from qaworker.owners import files, processes
from qaworker.owners.owner import Owned
from qaworker.owners.pids import PidFiles
from qaworker.owners.processes import Process, boot_id

pytestmark = pytest.mark.skipif(not processes.is_supported(), reason="it is a feature of Linux")

# No process has so high a number.
GONE = 2**22 + 1


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PidFiles:
    monkeypatch.chdir(tmp_path)
    return PidFiles(tmp_path, tmp_path / "log", 330)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


def dead(tmp_path: Path) -> Process:
    return Process(GONE, 1, boot_id(), str(tmp_path))


def write(path: Path, process: Process) -> None:
    path.write_text(json.dumps(asdict(process)))


def test_a_worker_that_ended_by_itself_has_failed(owner: PidFiles, tmp_path: Path) -> None:
    write(tmp_path / "qa_worker-2.pid", dead(tmp_path))
    assert owner.owned() == [Owned(2, 0, "failed")]
    assert owner.expected() == 1
    owner.stop(0)
    assert owner.expected() == 0
    assert not list(tmp_path.glob("*.pid"))


def test_a_file_of_before_the_last_boot_says_nothing(owner: PidFiles, tmp_path: Path) -> None:
    write(tmp_path / "qa_worker-1.pid", replace(dead(tmp_path), boot_id="before"))
    assert owner.owned() == []
    assert owner.expected() == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4711\n",
        "{}",
        '{"pid": 1}',
        "[1]",
        '{"pid": 1, "started": 2, "boot_id": "x", "instance": "/other"}',
        '{"pid": "1", "started": 2, "boot_id": "x", "instance": "HERE"}',
        '{"pid": 0, "started": 2, "boot_id": "x", "instance": "HERE"}',
        '{"pid": 1, "started": 2, "boot_id": "x", "instance": ["HERE"]}',
        '{"pid": 9999999999, "started": 2, "boot_id": "x", "instance": "HERE"}',
        "[" * 9999,
        "\udcff",
    ],
)
def test_a_file_that_is_not_ours_is_left_alone(owner: PidFiles, tmp_path: Path, text: str) -> None:
    path = tmp_path / "qa_worker-1.pid"
    content = text.replace("HERE", str(tmp_path)).encode(errors="surrogateescape")
    path.write_bytes(content)
    assert owner.owned() == []
    owner.stop(0)
    assert path.read_bytes() == content
    with pytest.raises(OwnerError, match=str(path)):
        owner.start(1, None)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, socket_at])
def test_what_is_no_file_is_left_alone(
    owner: PidFiles, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "qa_worker-1.pid"
    make(path)
    assert owner.owned() == []
    owner.stop(0)
    with pytest.raises(OwnerError, match=str(path)):
        owner.start(1, None)


def test_a_worker_that_nobody_could_know_is_ended(
    owner: PidFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise OwnerError(f"{path} {text}: no space left on device")

    monkeypatch.setattr(files, "replace", refuse)
    with pytest.raises(OwnerError, match="no space left"):
        owner.start(1, None)
    assert not processes.marked(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    owner = PidFiles(tmp_path, tmp_path / "file" / "log", 330)
    with pytest.raises(OwnerError, match="file/log") as raised:
        owner.start(1, None)
    assert not isinstance(raised.value, NotAllowed)
