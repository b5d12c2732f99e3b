"""What ``qaworker quickstart`` starts: a Redis, workers and perhaps the simulator, under one supervisord."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from xmlrpc import client as xmlrpc

from redis import Redis
from supervisor.xmlrpc import SupervisorTransport

from qaworker.errors import ExitCode, QAWorkerError, StoreUnavailable
from qaworker.store import heartbeats
from qaworker.store.connections import connect

WORKERS: Final = 2
START_S: Final = 60.0
# Beyond what supervisord grants the workers: it kills what is left of them itself.
STOP_GRACE_S: Final = 20.0
KILL_S: Final = 10.0
POLL_S: Final = 0.1
TAIL_LINES: Final = 20


class Stack:
    """The processes of a quickstart."""

    def __init__(
        self, configuration: Path, directory: Path, environment: Mapping[str, str]
    ) -> None:
        """Nothing is started yet.

        Args:
            configuration: of supervisord: ``deploy/quickstart.conf``.
            directory: for sockets, logs and what Redis keeps.
            environment: what the configuration refers to, and the processes' settings.
        """
        self._directory = directory
        self._environment = environment
        self._socket = directory / "supervisor.sock"
        self._log = directory / "log" / "supervisord.log"
        self._command = (
            *(sys.executable, "-m", "supervisor.supervisord", "--nodaemon", "--silent"),
            *("--configuration", str(configuration)),
        )
        self._pids: set[int] = set()

    @property
    def stop_command(self) -> str:
        """What stops a stack that was kept."""
        supervisorctl = str(Path(sys.executable).with_name("supervisorctl"))
        return shlex.join([supervisorctl, "-s", f"unix://{self._socket}", "shutdown"])

    @contextmanager
    def running(self, *, keep: bool) -> Iterator[None]:
        """Start everything; stop it at the end, unless it is to be kept and nothing failed."""
        self._log.parent.mkdir()
        with self._log.open("ab") as output:
            self._supervisord = subprocess.Popen(  # noqa: S603, our own command
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._directory,
                env=os.environ | self._environment,
                # Ctrl-C is for the command alone, which then stops this in order.
                start_new_session=True,
            )
        is_kept = False
        try:
            yield
            is_kept = keep
        finally:
            if not is_kept:
                self._stop()

    def wait_ready(self) -> None:
        """Wait until the simulator listens, where there is one, and all workers' hearts beat.

        Raises:
            QAWorkerError: one of them ended, or it took too long.
        """
        deadline = time.monotonic() + START_S
        with connect(self._environment["REDIS_URL"]) as redis:
            while not self._is_ready(redis):
                if self._supervisord.poll() is not None:
                    raise self.failure("supervisord ended", self._log)
                for program in self._programs():
                    if _has_failed(program):
                        raise self.failure(f"{program['name']} ended", program["stdout_logfile"])
                if time.monotonic() > deadline:
                    raise self.failure(f"the workers were not ready after {START_S:.0f} s")
                time.sleep(POLL_S)

    def failure(self, what: str, log: Path | str = "") -> QAWorkerError:
        """An error that says what happened, and shows the end of a log, by default a worker's."""
        path = Path(log or self._log.with_name("celery_qa_worker-1.log"))
        with suppress(FileNotFoundError):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
            return QAWorkerError("\n".join([f"{what}; the end of {path}:", *lines]))
        return QAWorkerError(f"{what}; see {path.parent}")

    def _is_ready(self, redis: Redis) -> bool:
        is_simulated = self._environment["QAWORKER_SIMULATOR"] == "true"
        if is_simulated and not (self._directory / "simulator.url").exists():
            return False
        try:
            return len(heartbeats.living(redis)) >= WORKERS
        except StoreUnavailable:
            return False

    def _programs(self) -> list[dict[str, Any]]:
        """What supervisord says of its processes; nothing while it does not answer."""
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        try:
            with xmlrpc.ServerProxy("http://localhost", transport=transport) as server:
                programs: Any = server.supervisor.getAllProcessInfo()
        except (OSError, HTTPException, xmlrpc.Error):
            return []
        self._pids = {program["pid"] for program in programs if program["pid"]}
        return list(programs)

    def _stop(self) -> None:
        """Stop everything in order; what is left after that, or after another Ctrl-C, is killed."""
        try:
            self._programs()
            self._supervisord.terminate()
            granted_s = float(self._environment["QAWORKER_STOP_TIMEOUT_S"])
            self._supervisord.wait(granted_s + STOP_GRACE_S)
        finally:
            self._supervisord.terminate()
            for pid in filter(self._is_ours, self._pids):
                os.kill(pid, signal.SIGKILL)
            self._supervisord.wait(KILL_S)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process lives in supervisord's session: it is no other one of the same id."""
        try:
            return os.getsid(pid) == self._supervisord.pid
        except ProcessLookupError:
            return False


def _has_failed(program: Mapping[str, Any]) -> bool:
    # A worker that came before Redis is started again.
    is_restarted = program["exitstatus"] == ExitCode.TRY_AGAIN
    return program["statename"] in ({"FATAL"} if is_restarted else {"FATAL", "EXITED"})
