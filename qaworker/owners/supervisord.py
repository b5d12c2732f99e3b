"""supervisord as the owner: containers, development, hosts without systemd.

supervisord changes a program and all its processes together (supervisor#177). So that a worker can
be added, replaced or stopped without the others, each gets a program of its own, in a file that
``deploy/supervisord.conf`` includes.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from gettext import gettext as _
from pathlib import Path
from typing import Final, Literal

from qaworker.errors import OwnerError
from qaworker.owners import files, log_files, processes, supervisor_setup
from qaworker.owners.ending import QUIT_GRACE_S, led_by
from qaworker.owners.owner import Owned, OwnerName
from qaworker.owners.processes import Process
from qaworker.owners.supervisor_rpc import PREFIX, NotThere, Program, Remote

SOCKET: Final = "supervisor.sock"
# supervisord answers from memory: one that takes longer hangs, and who only looks has little time.
_QUERY_S: Final = 0.5
_COMMAND_S: Final = 10.0
_START_S: Final = 20.0
_KILL_GRACE_S: Final = 10.0
_POLL_S: Final = 0.1
# Between fork and exec a process still has supervisord's handler, which loses the signal.
_LEAST_AGE_S: Final = 2
# A pattern, a format or a quotation in its configuration.
_SPECIAL: Final = re.compile(r"[\s*?\[\]%\"'\\]")
# The system takes 107 bytes, macOS 103, and supervisord first calls its socket supervisor.sock.PID.
_LONGEST_PATH: Final = 80
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
        self._remote = Remote(self._runtime_dir / SOCKET, _COMMAND_S)
        self._glance = Remote(self._runtime_dir / SOCKET, _QUERY_S)
        self._programs = self._runtime_dir / "workers.conf"

    def is_available(self) -> bool:
        """Whether a supervisord is there; to ask one that hangs, or is another user's, raises why."""
        return self._glance.listens()

    def owned(self) -> list[Owned]:
        """Its workers; none while no supervisord runs."""
        try:
            programs = self._glance.programs()
        except NotThere:
            return []
        # One that got a program of its own may still be listed, stopped, where it was before.
        by_number = {one.number: one for one in sorted(programs, key=lambda one: one.is_wanted)}
        return [_owned(by_number[number]) for number in sorted(by_number)]

    def expected(self) -> int:
        """How many it runs or tries to; those that failed count, those that were stopped do not."""
        try:
            return sum(program.is_wanted for program in self._glance.programs())
        except NotThere:
            return 0

    def start(self, workers: int, log_level: str | None) -> None:
        """Start supervisord where none answers; else start what is missing, and stop the surplus.

        Raises:
            OwnerError: supervisord could not be started, or could not do it.
            NotAllowed: it is another user's, or its directories cannot be written.
        """
        self._check_directories()
        programs = supervisor_setup.programs(workers, log_level, self._stop_timeout_s)
        files.replace(self._programs, programs)
        try:
            self._remote.call("reloadConfig")
        except NotThere:
            try:
                self._launch(workers)
            except OwnerError:
                self._programs.unlink(missing_ok=True)
                raise
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
            if self._remote.call("getIdentification") == supervisor_setup.IDENTIFIER:
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
            configured = self._glance.call("getAllConfigInfo")
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

    def _check_directories(self) -> None:
        named = {"QAWORKER_RUNTIME_DIR": self._runtime_dir, "QAWORKER_LOG_DIR": self._log_dir}
        for variable, path in named.items():
            if _SPECIAL.search(str(path)):
                text = _(
                    "{path}: supervisord takes no spaces and none of {characters}: set {variable}"
                )
                shown = "* ? [ ] % \" ' \\"
                raise OwnerError(text.format(path=path, characters=shown, variable=variable))
        if len(os.fsencode(self._runtime_dir)) > _LONGEST_PATH:
            text = _(
                "{path}: the path of a socket is limited: set QAWORKER_RUNTIME_DIR to one of at most {most} bytes"
            )
            raise OwnerError(text.format(path=self._runtime_dir, most=_LONGEST_PATH))

    def _launch(self, workers: int) -> None:
        with files.writing(self._log_dir):
            self._log_dir.mkdir(parents=True, exist_ok=True)
        supervisor_setup.launch(
            {
                "QAWORKER_RUNTIME_DIR": str(self._runtime_dir),
                "QAWORKER_LOG_DIR": str(self._log_dir),
                "QAWORKER_WORKERS": str(workers),
                "QAWORKER_STOP_TIMEOUT_S": supervisor_setup.seconds(self._stop_timeout_s),
            },
            timeout_s=_START_S,
        )

    def _replace(self, number: int, timeout_s: float) -> None:
        """End a worker, where it runs, and start its own program as it was last written."""
        self._end({number}, timeout_s)
        self._remove({number})
        self._remote.call("addProcessGroup", f"{PREFIX}{number}")

    def _remove(self, numbers: Collection[int]) -> None:
        """Take the programs of ended workers away, so that nobody starts them a second time.

        The program they were started with together stays while another of its processes runs.
        """
        programs = self._remote.programs()
        still_needed = {program.group for program in programs if not program.is_over}
        ended = {program.group for program in programs if program.number in numbers}
        for group in ended - still_needed:
            self._remote.call("removeProcessGroup", group)

    def _end(self, numbers: Collection[int], timeout_s: float) -> None:
        """TERM, after ``timeout_s`` QUIT, both to the main processes alone, and in the end KILL."""
        quit_at = time.monotonic() + timeout_s
        kill_at = quit_at + QUIT_GRACE_S
        give_up_at = kill_at + _KILL_GRACE_S
        was_quit: set[str] = set()
        while left := [program for program in self._found(numbers) if not program.is_over]:
            now = time.monotonic()
            for program in left:
                if program.state == "BACKOFF" or (
                    program.state in {"STARTING", "RUNNING"} and program.age_s >= _LEAST_AGE_S
                ):
                    self._remote.call("stopProcess", program.name, False)
                elif program.state == "STOPPING" and now > kill_at and program.pid:
                    kill(self._remote, program, self._runtime_dir)
                elif program.state == "STOPPING" and now > quit_at and program.name not in was_quit:
                    self._remote.call("signalProcess", program.name, "QUIT")
                    was_quit.add(program.name)
            if now > give_up_at:
                text = _("worker {number} (process {pid}) does not end, even by KILL")
                raise OwnerError(text.format(number=left[0].number, pid=left[0].pid))
            time.sleep(_POLL_S)

    def _shut_down(self) -> None:
        pid = self._remote.call("getPID")
        process = Process.of(pid) if processes.is_supported() else None
        self._remote.call("shutdown")
        give_up_at = time.monotonic() + _START_S
        while self.is_available() or (process is not None and process.is_running):
            if time.monotonic() > give_up_at:
                text = _("supervisord (process {pid}) does not end: see its log")
                raise OwnerError(text.format(pid=pid))
            time.sleep(_POLL_S)

    def _found(self, numbers: Collection[int]) -> list[Program]:
        return [program for program in self._remote.programs() if program.number in numbers]


def kill(remote: Remote, program: Program, runtime_dir: Path) -> None:
    """KILL a worker and its children, which a signal of supervisord does not reach.

    The main process is supervisord's own child, whose number it never mistakes.
    """
    process = Process.of(program.pid) if processes.is_supported() else None
    children = led_by(process) if process and process.is_of(runtime_dir) else []
    remote.call("signalProcess", program.name, "KILL")
    for child in children:
        child.send(signal.SIGKILL)


def _owned(program: Program) -> Owned:
    if program.is_over and program.state != "STOPPED":
        return Owned(program.number, 0, "failed", program.exit_status)
    if program.is_new:
        return Owned(program.number, 0, "starting")
    return Owned(program.number, program.pid, _STATES[program.state])


def _goes_on(program: Program) -> bool:
    """Whether it runs or soon will, without anybody's doing."""
    return not program.is_over and program.state != "STOPPING"
