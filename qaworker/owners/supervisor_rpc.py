"""Asks and tells supervisord over its Unix socket: XML-RPC with time limits, and our errors."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass
from gettext import gettext as _
from pathlib import Path
from typing import Any, Final
from xmlrpc import client as xmlrpc

from qaworker.errors import Busy, ExitCode, NotAllowed, OwnerError
from qaworker.owners import processes

_SHUTTING_DOWN: Final = 6
# What was asked for is so already: not running, running, added, or still needed by another process.
_SO_ALREADY: Final = frozenset({60, 70, 90, 91})
PREFIX: Final = "qa_worker-"


class NotThere(OwnerError):
    """No supervisord listens here: start the workers first."""


@dataclass(frozen=True, slots=True)
class Program:
    """One of our worker processes as supervisord sees it."""

    group: str
    number: int
    pid: int
    state: str
    """As supervisord calls it: STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL."""
    exit_status: int
    is_new: bool
    """Whether it was never started, which supervisord does within a second."""
    age_s: int
    """Since it was started last, to the second."""
    trouble: str
    """Why it could not be started."""

    @property
    def name(self) -> str:
        """What supervisord's own commands call it."""
        return f"{self.group}:{PREFIX}{self.number}"

    @property
    def is_over(self) -> bool:
        """Whether there is no process, and supervisord will not start one."""
        if self.state == "EXITED":
            return self.exit_status == ExitCode.CONFIG
        return self.state in {"FATAL", "UNKNOWN"} or (self.state == "STOPPED" and not self.is_new)

    @property
    def is_wanted(self) -> bool:
        """Whether it is told to run."""
        return self.is_new or self.state not in {"STOPPED", "STOPPING"}


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        # Set first, as closing the connection closes it whatever comes.
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.Transport):
    # supervisor's own has no time limit.
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(self._path, self._timeout_s)
        # Kept for the base class to close.
        self._connection = host, connection
        return connection


class Remote:
    """A supervisord, by its socket; nothing is connected between calls."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s

    def listens(self) -> bool:
        """Whether somebody listens, who may hang, or be another user's."""
        connection = _Connection(self._path, self._timeout_s)
        try:
            connection.connect()
        except (TimeoutError, BlockingIOError, PermissionError):
            return True
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def call(self, method: str, *arguments: str | bool) -> Any:
        """What a method of the ``supervisor`` namespace returns; None when it is so already.

        Raises:
            NotThere: nobody listens.
            NotAllowed: it belongs to another user.
            Busy: it is ending.
            OwnerError: it does not answer in time, or could not do it.
        """
        transport = _Transport(self._path, self._timeout_s)
        try:
            with xmlrpc.ServerProxy("http://localhost", transport=transport) as server:
                return getattr(server.supervisor, method)(*arguments)
        except xmlrpc.Fault as fault:
            if fault.faultCode in _SO_ALREADY:
                return None
            if fault.faultCode == _SHUTTING_DOWN:
                raise Busy(_("supervisord is ending: try again when it has")) from fault
            asked = " ".join((method, *map(str, arguments)))
            raise OwnerError(f"supervisord: {asked}: {fault.faultString}") from fault
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotThere(_("no supervisord listens at {path}").format(path=self._path)) from error
        except PermissionError as error:
            text = _(
                "{path} belongs to another user: run this as root, or as the one who started it"
            )
            raise NotAllowed(text.format(path=self._path)) from error
        except (OSError, http.client.HTTPException, xmlrpc.Error) as error:
            text = _("supervisord does not answer ({error}): see its log")
            if pid := self._verified_pid():
                text = _("supervisord does not answer ({error}): see its log, or kill -KILL {pid}")
            raise OwnerError(text.format(error=error, pid=pid)) from error

    def _verified_pid(self) -> int | None:
        """The process of its PID file, when it certainly is the supervisord of this directory."""
        try:
            pid = int(self._path.with_name("supervisord.pid").read_text(encoding="ascii"))
            directory = processes.environment(pid)["QAWORKER_RUNTIME_DIR"]
            is_it = Path(directory).resolve() == self._path.parent.resolve()
        except (OSError, ValueError, KeyError):
            return None
        return pid if is_it and "supervisord" in processes.command(pid) else None

    def programs(self) -> list[Program]:
        """Our worker processes, by number; raises as :meth:`call`."""
        found = [
            Program(
                group=info["group"],
                number=int(info["name"].removeprefix(PREFIX)),
                pid=info["pid"],
                state=info["statename"],
                exit_status=info["exitstatus"],
                is_new=info["statename"] == "STOPPED" and info["start"] == 0,
                age_s=info["now"] - info["start"],
                trouble=info["spawnerr"],
            )
            for info in self.call("getAllProcessInfo")
            if info["name"].startswith(PREFIX)
        ]
        return sorted(found, key=lambda program: program.number)
