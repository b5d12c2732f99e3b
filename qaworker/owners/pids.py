"""The owner of last resort: detached worker processes, each known by a file that says which one it is.

Nobody starts a worker again that crashed; ``status`` and the monitor tell.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from gettext import gettext as _
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from qaworker.errors import NotAllowed, OwnerError
from qaworker.owners import ending, files, log_files, processes
from qaworker.owners.files import writing
from qaworker.owners.owner import Owned, OwnerName
from qaworker.owners.processes import MARKER, Process

# What another owner left in this environment: a worker would take itself for that owner's.
_MARKS_OF_OTHERS: Final = (
    "INVOCATION_ID",
    "NOTIFY_SOCKET",
    "SUPERVISOR_ENABLED",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)
_WRITTEN: Final = TypeAdapter(Process)
_MOST_BYTES: Final = 65_536
# Of a number beyond it the system cannot even be asked.
_GREATEST_PID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class _PidFile:
    """A PID file that is there, and the process it means, when it is one of ours."""

    path: Path
    number: int
    process: Process | None


class PidFiles:
    """Workers under nobody's care but these files'."""

    name: OwnerName = "pid"

    def __init__(self, runtime_dir: Path, log_dir: Path, stop_timeout_s: float) -> None:
        self._runtime_dir = runtime_dir.resolve()
        self._log_dir = log_dir.absolute()
        self._stop_timeout_s = stop_timeout_s
        self._log_level: str | None = None
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def is_available(self) -> bool:
        """Whether this system tells who a process is."""
        return processes.is_supported()

    def owned(self) -> list[Owned]:
        """The workers of the PID files, by number; a file whose process has ended is a failed one."""
        return [
            Owned(file.number, file.process.pid, "running")
            if file.process.is_running
            else Owned(file.number, 0, "failed", self._exit_code(file.number))
            for file in self._files()
            if file.process is not None and file.process.boot_id == processes.boot_id()
        ]

    def expected(self) -> int:
        """How many were started since the host booted, and not stopped."""
        return len(self.owned())

    def start(self, workers: int, log_level: str | None) -> None:
        """Start those that are missing, and stop the surplus.

        Raises:
            OwnerError: this system cannot run them so, or a PID file is not ours.
            NotAllowed: the runtime or the log directory cannot be written.
        """
        self._require()
        self._log_level = log_level
        with writing(self._log_dir):
            self._log_dir.mkdir(parents=True, exist_ok=True)
        known = {file.number: file for file in self._files()}
        self._end([file for file in known.values() if file.number > workers], self._stop_timeout_s)
        for number in range(1, workers + 1):
            file = known.get(number)
            if file is not None and file.process is None:
                raise OwnerError(
                    _("{path} is no PID file of ours: look at it, and remove it").format(
                        path=file.path
                    )
                )
            if file is None or file.process is None or not file.process.is_running:
                self._spawn(number)

    def stop(self, timeout_s: float) -> None:
        """End all of them, and remove the files; a file that is not ours stays as it is."""
        self._require()
        self._end(self._files(), timeout_s)

    def restart(self, number: int, timeout_s: float) -> None:
        """End one in order, by force after ``timeout_s``, and start it again."""
        self._require()
        self._end([file for file in self._files() if file.number == number], timeout_s)
        self._spawn(number)

    def stop_timeout_s(self) -> float | None:
        """What a stop waits unless it is told otherwise."""
        return self._stop_timeout_s

    def log_lines(self, count: int) -> list[str]:
        """The last lines of their log files."""
        return log_files.last_lines(self._log_dir.glob("celery_qa_worker-*.log"), count)

    def _require(self) -> None:
        if not self.is_available():
            raise OwnerError(
                _("--via pid needs Linux, to be sure whom it signals: use --via supervisor")
            )

    def _files(self) -> list[_PidFile]:
        found = []
        for path in self._runtime_dir.glob("qa_worker-*.pid"):
            number = path.stem.rpartition("-")[2]
            if not number.isdecimal():
                continue
            try:
                process = _read(path)
            except FileNotFoundError:  # removed in between
                continue
            except PermissionError as error:
                raise NotAllowed(
                    _("{path} cannot be read: run this as root").format(path=path)
                ) from error
            is_ours = process is not None and process.instance == str(self._runtime_dir)
            found.append(_PidFile(path, int(number), process if is_ours else None))
        return sorted(found, key=lambda file: file.number)

    def _spawn(self, number: int) -> None:
        log_file = self._log_dir / f"celery_qa_worker-{number}.log"
        command = [sys.executable, "-m", "qaworker", "worker", "-n", str(number)]
        if self._log_level is not None:
            command += ["-l", self._log_level]
        inherited = {
            name: value for name, value in os.environ.items() if name not in _MARKS_OF_OTHERS
        }
        # What it says before its log is open, or when Python itself gives up, is found there too.
        with writing(log_file), log_file.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603, our own command
                [*command, "--logfile", str(log_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A library that changes the title of a process would write over the mark.
                env=inherited | {MARKER: str(self._runtime_dir), "SPT_NOENV": "1"},
                # Neither Ctrl-C nor the end of the terminal reaches it.
                start_new_session=True,
            )
        self._children[number] = child
        path = self._runtime_dir / f"qa_worker-{number}.pid"
        # One that has ended already is still there to be looked at: it is this command's child.
        if process := Process.of(child.pid):
            ours = replace(process, instance=str(self._runtime_dir))
            try:
                files.replace(path, json.dumps(asdict(ours)) + "\n")
            except OwnerError:
                # Without the file nobody would know it.
                ending.end([ours], self._stop_timeout_s)
                child.wait()
                raise

    def _end(self, files: list[_PidFile], timeout_s: float) -> None:
        ours = [file for file in files if file.process is not None]
        ending.end([file.process for file in ours if file.process], timeout_s)
        for file in ours:
            # Reaped, where this command started it.
            self._exit_code(file.number)
            if file.process and file.process.is_running:
                raise OwnerError(
                    _("process {pid} does not end, or is none of ours: see {path}").format(
                        pid=file.process.pid, path=file.path
                    )
                )
            with writing(file.path):
                file.path.unlink(missing_ok=True)

    def _exit_code(self, number: int) -> int | None:
        child = self._children.get(number)
        return None if child is None else child.poll()


def _read(path: Path) -> Process | None:
    """The process that a file means; None for one that was not written here, whatever it is.

    Raises:
        FileNotFoundError, PermissionError: as the system says it.
    """
    try:
        # Nobody waits for the writer of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        process = _WRITTEN.validate_json(os.read(descriptor, _MOST_BYTES), strict=True)
    except ValueError:
        return None
    finally:
        os.close(descriptor)
    return process if 0 < process.pid <= _GREATEST_PID else None
