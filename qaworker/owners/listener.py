"""What supervisord lacks: it replaces a worker that gives no sign of life, and retries a failed one.

supervisord starts this as an event listener and tells it, by a protocol on standard input and
output, that five seconds went by. Redis may be away then: nobody is judged by what Redis cannot tell.
"""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from qaworker import logs, settings
from qaworker.errors import OwnerError, QAWorkerError
from qaworker.owners.supervisor_rpc import Program, Remote
from qaworker.owners.supervisord import SOCKET, kill
from qaworker.settings import Settings
from qaworker.store import heartbeats
from qaworker.store.connections import connect

log = logs.get(__name__)

SILENT_S: Final = 60.0
# Between a tick and the next, with supervisord busy; after a longer time this process itself, or
# the host, had stood still, and the workers with it.
_LONGEST_TICK_S: Final = 20.0
_REDIS_S: Final = 1.0
_RPC_S: Final = 10.0
_RETRY_S: Final = 15.0
_CHECK_S: Final = 30.0


class Signs:
    """When each worker process last gave a sign of life, as far as Redis could tell."""

    def __init__(self) -> None:
        self._last_at: dict[int, float] = {}
        self._told_at = 0.0

    def silent(self, running: set[int], living: set[int] | None, now_s: float) -> set[int]:
        """Which of the running processes gave no sign for SILENT_S; call it with each tick.

        Args:
            running: their process ids.
            living: those whose last beat is fresh; None when Redis does not answer, after which
                all of them get their time anew.
            now_s: by a monotonic clock.
        """
        if living is None or now_s - self._told_at > _LONGEST_TICK_S:
            self._last_at.clear()
        self._told_at = now_s
        if living is None:
            return set()
        self._last_at = {
            pid: now_s if pid in living else self._last_at.get(pid, now_s) for pid in running
        }
        return {pid for pid, last_at in self._last_at.items() if now_s - last_at > SILENT_S}


class Listener:
    """Looks after the workers of the supervisord that started it."""

    def __init__(self) -> None:
        self._signs = Signs()
        self._asked: set[int] = set()
        self._tried_at = 0.0
        self._last_error = ""

    def listen(self, events: TextIO, answers: TextIO) -> None:
        """Look at the workers with every event, until supervisord ends."""
        while True:
            answers.write("READY\n")
            answers.flush()
            # "ver:3.0 … len:15" and, of that length, what happened.
            header = dict(word.split(":", 1) for word in events.readline().split())
            if not header:
                return
            events.read(int(header["len"]))
            self.look()
            answers.write("RESULT 2\nOK")
            answers.flush()

    def look(self) -> None:
        """Look at the workers once; what prevents that is logged, when it is something new."""
        try:
            values = settings.load()
            remote = Remote(values.runtime_dir / SOCKET, _RPC_S)
            programs = remote.programs()
            self._replace_silent(programs, remote, _living(values), values.runtime_dir.resolve())
            self._retry_failed(programs, remote, time.monotonic())
        except QAWorkerError as error:
            if str(error) != self._last_error:
                log.warning("workers_not_watched", error=str(error))
            self._last_error = str(error)
        else:
            self._last_error = ""

    def _replace_silent(
        self, programs: list[Program], remote: Remote, living: set[int] | None, runtime_dir: Path
    ) -> None:
        running = {one.pid: one for one in programs if one.state == "RUNNING" and one.pid}
        silent = self._signs.silent(set(running), living, time.monotonic())
        for pid in silent:
            name = running[pid].name
            if pid in self._asked:
                log.error("silent_worker_killed", worker=name, pid=pid)
                kill(remote, running[pid], runtime_dir)
            else:
                # It says where every thread is, and ends, unless it is frozen.
                log.error("silent_worker_aborted", worker=name, pid=pid, silent_s=SILENT_S)
                remote.call("signalProcess", name, "ABRT")
        self._asked = silent

    def _retry_failed(self, programs: list[Program], remote: Remote, now_s: float) -> None:
        failed = [program for program in programs if program.state == "FATAL"]
        if not failed or now_s - self._tried_at < _RETRY_S:
            return
        self._tried_at = now_s
        if not _could_start():
            return
        for program in failed:
            log.info("failed_worker_retried", worker=program.name, trouble=program.trouble)
            with suppress(OwnerError):  # it is FATAL again, and the next try comes
                remote.call("startProcess", program.name, False)


def _living(values: Settings) -> set[int] | None:
    """Process ids of this host's workers whose beat is fresh; None when Redis does not answer."""
    host = socket.gethostname()
    try:
        with connect(values.redis_url, timeout_s=_REDIS_S) as redis:
            return {beat.pid for beat in heartbeats.living(redis) if beat.host == host}
    except QAWorkerError:
        return None


def _could_start() -> bool:
    """Whether the program can be run and takes its settings, as supervisord would run it."""
    try:
        done = subprocess.run(
            ["qaworker", "config", "--check"],  # noqa: S607, as in supervisord's command
            stdin=subprocess.DEVNULL,
            # Standard output is the protocol's.
            capture_output=True,
            timeout=_CHECK_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
