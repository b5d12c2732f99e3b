"""deploy/logrotate.d/qaworker with the real logrotate, on logs that are being written."""

from __future__ import annotations

import contextlib
import getpass
import grp
import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Process, child_environment
from tests.support.waiting import wait_until

SHIPPED = ROOT / "deploy" / "logrotate.d" / "qaworker"
WAIT_S = 30.0
ROTATIONS = 3

pytestmark = pytest.mark.skipif(not shutil.which("logrotate"), reason="logrotate is not installed")

# Numbers the lines it writes, as fast as it can, until it is told to end.
WRITER = """
import itertools, signal, sys
is_over = []
signal.signal(signal.SIGTERM, lambda *_: is_over.append(True))
for number in itertools.count(1):
    {write}
    if is_over:
        sys.exit()
"""
TO_STANDARD_ERROR = "print(f'number={number}', file=sys.stderr)"
TO_ITS_LOGFILE = "log.info('written', number=number)"


class Logs:
    """A log directory, and logrotate with the shipped configuration for it."""

    def __init__(self, directory: Path) -> None:
        self.runtime_dir = directory / "run"
        self.directory = directory / "log"
        for path in (self.runtime_dir, self.directory):
            path.mkdir()
        self._configuration = directory / "logrotate.conf"
        shipped = SHIPPED.read_text(encoding="utf-8")
        for theirs, ours in {
            "/var/log/qaworker": str(self.directory),
            "/run/qaworker": str(self.runtime_dir),
            "su qaworker qaworker": f"su {getpass.getuser()} {grp.getgrgid(os.getgid()).gr_name}",
        }.items():
            assert theirs in shipped
            shipped = shipped.replace(theirs, ours)
        self._configuration.write_text(shipped, encoding="utf-8")
        self._state = directory / "logrotate.state"

    def logrotate(self, *options: str) -> str:
        """What it says."""
        done = subprocess.run(
            [
                str(shutil.which("logrotate")),
                *("--state", str(self._state), *options, str(self._configuration)),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def rotate_while_written(self, path: Path) -> None:
        """Rotate a few times, each while the new file is being written already."""
        for _ in range(ROTATIONS):
            wait_until(lambda: path.exists() and path.stat().st_size, WAIT_S, f"lines in {path}")
            assert self.logrotate("--force") == ""

    def numbers(self, path: Path) -> list[int]:
        """The numbers in a log and all it was rotated to, in the order of writing."""
        rotated = [path.with_name(f"{path.name}.1")]
        rotated += [path.with_name(f"{path.name}.{n}.gz") for n in range(2, ROTATIONS + 1)]
        assert sorted(path.parent.glob(f"{path.name}.*")) == sorted(rotated)
        # Together: supervisord reads a pipe, and may have seen half a line before it was told.
        content = b"".join(
            gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            for file in [*reversed(rotated), path]
        )
        return [int(line) for line in re.findall(rb"(?m)number\W+(\d+).*$", content)]


@pytest.fixture
def logs(short_path: Path) -> Logs:
    return Logs(short_path)


@pytest.fixture
def supervisord(logs: Logs, short_path: Path) -> Iterator[Process]:
    """deploy/supervisord.conf, with a worker that does nothing but write to its log."""
    tools = short_path / "tools"
    tools.mkdir()
    writer = tools / "writer.py"
    writer.write_text(WRITER.format(write=TO_STANDARD_ERROR), encoding="utf-8")
    program = tools / "qaworker"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = worker ] && exec {sys.executable} {writer}\nexec cat\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    process = Process(
        [
            *(sys.executable, "-m", "supervisor.supervisord", "--nodaemon"),
            *("--configuration", str(ROOT / "deploy" / "supervisord.conf")),
        ],
        log=short_path / "output",
        cwd=short_path,
        env=child_environment(
            short_path,
            PATH=f"{tools}:{os.environ['PATH']}",
            QAWORKER_RUNTIME_DIR=str(logs.runtime_dir),
            QAWORKER_LOG_DIR=str(logs.directory),
            QAWORKER_WORKERS="1",
            QAWORKER_STOP_TIMEOUT_S="10",
        ),
    )
    with contextlib.ExitStack() as stack:
        stack.callback(process.end)
        yield process
        process.terminate()
        process.wait_exit(WAIT_S)


def test_the_shipped_file_is_understood(logs: Logs) -> None:
    said = logs.logrotate("--debug")
    assert "error" not in said
    assert "(30 rotations)" in said


@pytest.mark.slow
def test_nothing_that_supervisord_captures_is_lost(logs: Logs, supervisord: Process) -> None:
    path = logs.directory / "celery_qa_worker-1.log"
    logs.rotate_while_written(path)
    wait_until(path.exists, WAIT_S, "the log after the last rotation")
    supervisord.terminate()
    assert supervisord.wait_exit(WAIT_S) == 0
    numbers = logs.numbers(path)
    assert numbers == list(range(1, len(numbers) + 1))


def test_nothing_that_a_worker_writes_itself_is_lost(logs: Logs, tmp_path: Path) -> None:
    path = logs.directory / "celery_qa_worker-1.log"
    script = tmp_path / "writer.py"
    script.write_text(
        "from pathlib import Path\nfrom qaworker import logs\n"
        f"logs.configure('debug', 'json', Path({str(path)!r}))\nlog = logs.get('test')\n"
        + WRITER.format(write=TO_ITS_LOGFILE),
        encoding="utf-8",
    )
    with Process(
        [sys.executable, str(script)],
        log=tmp_path / "output",
        cwd=tmp_path,
        env=child_environment(tmp_path),
    ) as writer:
        logs.rotate_while_written(path)
        wait_until(path.exists, WAIT_S, "the log after the last rotation")
        writer.terminate()
        assert writer.wait_exit(WAIT_S) == 0, writer.output
    assert writer.output == ""
    numbers = logs.numbers(path)
    assert numbers == list(range(1, len(numbers) + 1))


def test_another_process_with_the_number_of_supervisord_is_let_alone(
    logs: Logs, tmp_path: Path
) -> None:
    (logs.directory / "celery_monitor.log").write_text("a line\n", encoding="utf-8")
    environment = child_environment(tmp_path, QAWORKER_RUNTIME_DIR=str(logs.runtime_dir))
    with Process(["sleep", "60"], log=tmp_path / "output", cwd=tmp_path, env=environment) as other:
        (logs.runtime_dir / "supervisord.pid").write_text(f"{other.pid}\n", encoding="utf-8")
        assert logs.logrotate("--force") == ""
        # USR2 would have ended it.
        other.check_alive()
    assert (logs.directory / "celery_monitor.log.1").exists()
