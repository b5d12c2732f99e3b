"""supervisord as the owner: containers, development, hosts without systemd.

supervisord changes a program and all its processes together (supervisor#177). So that a worker can
be added, replaced or stopped without the others, each gets a program of its own, in a file that
``deploy/supervisord.conf`` includes.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from configparser import RawConfigParser
from contextlib import suppress
from gettext import gettext as _
from pathlib import Path
from typing import Final, Literal

from qaworker.errors import NotAllowed, OwnerError
from qaworker.owners import log_files
from qaworker.owners.owner import Owned, OwnerName
from qaworker.owners.supervisor_rpc import PREFIX, NotThere, Program, Remote

SOCKET: Final = "supervisor.sock"
# The program whose processes are as many as supervisord was told to start with.
_TOGETHER: Final = "program:qa-celery"
# Tells a supervisord that was started here, and ends with its workers, from one that was there.
_STARTED_HERE: Final = "qaworker"
_START_S: Final = 20.0
# A worker ends within 5 s of QUIT.
_QUIT_GRACE_S: Final = 7.0
_KILL_GRACE_S: Final = 10.0
_POLL_S: Final = 0.1
_STATES: Final[dict[str, Literal["running", "starting", "stopping", "stopped"]]] = {
    "RUNNING": "running",
    "STARTING": "starting",
    "BACKOFF": "starting",
    # It is started again within a second.
    "EXITED": "starting",
    "STOPPING": "stopping",
    "STOPPED": "stopped",
}


class Supervisord:
    """The workers of one supervisord, which is found by its socket in the runtime directory."""

    name: OwnerName = "supervisor"

    def __init__(self, runtime_dir: Path, log_dir: Path, stop_timeout_s: float) -> None:
        self._runtime_dir = runtime_dir.resolve()
        self._log_dir = log_dir.resolve()
        self._stop_timeout_s = stop_timeout_s
        self._remote = Remote(self._runtime_dir / SOCKET)
        self._programs = self._runtime_dir / "workers.conf"

    def is_available(self) -> bool:
        """Whether a supervisord answers."""
        try:
            self._remote.call("getState")
        except OwnerError:
            return False
        return True

    def owned(self) -> list[Owned]:
        """Its workers; none while no supervisord runs."""
        try:
            programs = self._remote.programs()
        except NotThere:
            return []
        # One that got a program of its own may still be listed, stopped, where it was before.
        by_number = {one.number: one for one in sorted(programs, key=lambda one: one.is_wanted)}
        return [_owned(by_number[number]) for number in sorted(by_number)]

    def expected(self) -> int:
        """How many it runs or tries to; those that failed count, those that were stopped do not."""
        try:
            return sum(program.is_wanted for program in self._remote.programs())
        except NotThere:
            return 0

    def start(self, workers: int, log_level: str | None) -> None:
        """Start supervisord where none answers; else start what is missing, and stop the surplus.

        Raises:
            OwnerError: supervisord could not be started, or could not do it.
            NotAllowed: it is another user's, or its directories cannot be written.
        """
        self._write_programs(workers, log_level)
        try:
            self._remote.call("reloadConfig")
        except NotThere:
            self._launch(workers)
            return
        wanted = {program.number for program in self._remote.programs() if _goes_on(program)}
        for number in range(1, workers + 1):
            if number not in wanted:
                self._replace(number, self._stop_timeout_s)
        surplus = {number for number in wanted if number > workers}
        self._end(surplus, self._stop_timeout_s)
        self._remove(surplus)

    def stop(self, timeout_s: float) -> None:
        """End all workers, and supervisord too where :meth:`start` started it."""
        try:
            numbers = {program.number for program in self._remote.programs()}
            self._end(numbers, timeout_s)
            self._remove(numbers)
            # A supervisord that is started again runs what it is told then.
            self._programs.unlink(missing_ok=True)
            if self._remote.call("getIdentification") == _STARTED_HERE:
                self._shut_down()
        except NotThere:
            return

    def restart(self, number: int, timeout_s: float) -> None:
        """Replace one by a process with the settings that the last start named."""
        self._replace(number, timeout_s)
        give_up_at = time.monotonic() + _START_S
        while not (found := self._found({number})) or not any(one.pid for one in found):
            if any(program.state == "FATAL" for program in found) or time.monotonic() > give_up_at:
                trouble = " ".join(program.trouble for program in found)
                text = _("supervisord could not start worker {number} ({trouble}): see its log")
                raise OwnerError(text.format(number=number, trouble=trouble))
            time.sleep(_POLL_S)

    def stop_timeout_s(self) -> float | None:
        """The least ``stopwaitsecs`` of its workers."""
        with suppress(OwnerError):
            configured = self._remote.call("getAllConfigInfo")
            return min(
                (
                    float(one["stopwaitsecs"])
                    for one in configured
                    if one["name"].startswith(PREFIX)
                ),
                default=None,
            )
        return None

    def log_lines(self, count: int) -> list[str]:
        """The last lines of their log files."""
        return log_files.last_lines(self._log_dir.glob("celery_qa_worker-*.log"), count)

    def _write_programs(self, workers: int, log_level: str | None) -> None:
        """Write a program for each worker, as the shipped one says, and none to start together."""
        if len(str(self._programs).split()) > 1:
            text = _("{path}: supervisord takes no path with spaces: set QAWORKER_RUNTIME_DIR")
            raise OwnerError(text.format(path=self._programs))
        shipped = RawConfigParser()
        shipped.read(_configuration(), encoding="utf-8")
        options = dict(shipped[_TOGETHER])
        options["numprocs"] = "1"
        options["stopwaitsecs"] = str(math.ceil(self._stop_timeout_s))
        if log_level is not None:
            options["command"] += f" -l {log_level}"
        programs = RawConfigParser()
        programs[_TOGETHER] = {"numprocs": "0"}
        for number in range(1, workers + 1):
            programs[f"program:{PREFIX}{number}"] = options | {"numprocs_start": str(number)}
        new = self._programs.with_suffix(".new")
        try:
            for directory in (self._runtime_dir, self._log_dir):
                directory.mkdir(parents=True, exist_ok=True)
            with new.open("w", encoding="utf-8") as file:
                file.write("; Written by `start_celery.sh start`, in effect until `stop`.\n")
                programs.write(file)
            new.replace(self._programs)
        except OSError as error:
            text = _("{path}: {reason}: correct that, or set QAWORKER_RUNTIME_DIR")
            kind = NotAllowed if isinstance(error, PermissionError) else OwnerError
            raise kind(text.format(path=error.filename, reason=error.strerror)) from error

    def _launch(self, workers: int) -> None:
        """Start supervisord; it answers when this returns, and lives on when this process ends."""
        environment = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
            "QAWORKER_RUNTIME_DIR": str(self._runtime_dir),
            "QAWORKER_LOG_DIR": str(self._log_dir),
            "QAWORKER_WORKERS": str(workers),
            "QAWORKER_STOP_TIMEOUT_S": str(math.ceil(self._stop_timeout_s)),
        }
        command = [sys.executable, "-m", "supervisor.supervisord", "--identifier", _STARTED_HERE]
        try:
            # It returns when its daemon listens, or with the reason why it does not.
            done = subprocess.run(  # noqa: S603, our own command
                [*command, "--configuration", str(_configuration())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=os.environ | environment,
                timeout=_START_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise OwnerError(_("supervisord did not start in time: see its log")) from error
        if done.returncode != 0:
            raise OwnerError(_("supervisord did not start: {reason}").format(reason=_reason(done)))

    def _replace(self, number: int, timeout_s: float) -> None:
        """End a worker, where it runs, and start its own program as it was last written."""
        self._end({number}, timeout_s)
        self._remove({number})
        self._remote.call("addProcessGroup", f"{PREFIX}{number}")

    def _remove(self, numbers: Collection[int]) -> None:
        """Take the programs of ended workers away, so that nobody starts them a second time.

        The program they were started with together stays while another of its processes runs.
        """
        for group in {program.group for program in self._found(numbers)}:
            self._remote.call("removeProcessGroup", group)

    def _end(self, numbers: Collection[int], timeout_s: float) -> None:
        """TERM, after ``timeout_s`` QUIT, both to the main processes alone, and in the end KILL."""
        quit_at = time.monotonic() + timeout_s
        kill_at = quit_at + _QUIT_GRACE_S
        give_up_at = kill_at + _KILL_GRACE_S
        was_quit = False
        while left := [program for program in self._found(numbers) if not program.is_over]:
            now = time.monotonic()
            for program in left:
                if program.state in {"STARTING", "RUNNING", "BACKOFF"}:
                    self._remote.call("stopProcess", program.name, False)
                elif program.state == "STOPPING" and now > kill_at and program.pid:
                    # It leads a group, its children, which a signal of supervisord would not reach.
                    with suppress(ProcessLookupError):
                        os.killpg(program.pid, signal.SIGKILL)
                elif program.state == "STOPPING" and now > quit_at and not was_quit:
                    self._remote.call("signalProcess", program.name, "QUIT")
            was_quit = now > quit_at
            if now > give_up_at:
                text = _("worker {number} (process {pid}) does not end, even by KILL")
                raise OwnerError(text.format(number=left[0].number, pid=left[0].pid))
            time.sleep(_POLL_S)

    def _shut_down(self) -> None:
        pid = self._remote.call("getPID")
        self._remote.call("shutdown")
        give_up_at = time.monotonic() + _START_S
        while time.monotonic() < give_up_at:
            try:
                self._remote.call("getState")
            except NotThere:
                return
            except OwnerError:  # it says that it is ending
                time.sleep(_POLL_S)
        text = _("supervisord (process {pid}) does not end: see its log")
        raise OwnerError(text.format(pid=pid))

    def _found(self, numbers: Collection[int]) -> list[Program]:
        return [program for program in self._remote.programs() if program.number in numbers]


def _owned(program: Program) -> Owned:
    if program.is_over and program.state != "STOPPED":
        return Owned(program.number, 0, "failed", program.exit_status)
    if program.is_new:
        return Owned(program.number, 0, "starting")
    return Owned(program.number, program.pid, _STATES[program.state])


def _goes_on(program: Program) -> bool:
    """Whether it runs or soon will, without anybody's doing."""
    return not program.is_over and program.state != "STOPPING"


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line of its output that says why supervisord ended."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    errors = [line for line in lines if line.startswith("Error")]
    return (errors or lines or [f"exit code {done.returncode}"])[-1]


def _configuration() -> Path:
    """``deploy/supervisord.conf``: of the checkout, or beside the virtual environment installed.

    Raises:
        OwnerError: there is none.
    """
    for root in (Path(__file__).parents[2], Path(sys.prefix).parent):
        if (path := root / "deploy" / "supervisord.conf").exists():
            return path
    raise OwnerError(_("deploy/supervisord.conf is not installed here: use another --via"))
