"""Processes of this host as Linux shows them: each is verified to be the one meant before a signal."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from gettext import gettext as _
from pathlib import Path
from typing import Final, Self

from qaworker.errors import NotAllowed, OwnerError

MARKER: Final = "QAWORKER_INSTANCE"
"""In the environment of every worker an owner started, and of its children: the installation."""

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True)
class Process:
    """A process and no other: numbers of processes are used again, start times of one boot are not."""

    pid: int
    started: int
    """Field 22 of /proc/PID/stat: clock ticks from boot to its start."""
    boot_id: str
    instance: str
    """The installation it carries the mark of; empty for none."""

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The process that has this number now; None when there is none.

        Raises:
            NotAllowed: it is another user's, whose environment only root may read.
        """
        try:
            return cls(pid, int(_stat(pid)[_STARTED]), boot_id(), _instance(pid))
        except (FileNotFoundError, ProcessLookupError):
            return None
        except PermissionError as error:
            raise NotAllowed(
                _("process {pid} is another user's: run this as root").format(pid=pid)
            ) from error

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet; one that nobody waits for (a zombie) has."""
        if self.boot_id != boot_id():
            return False
        try:
            stat = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat[_STATE] not in _ENDED and int(stat[_STARTED]) == self.started

    @property
    def command(self) -> str:
        """Its command line; empty when it has ended."""
        return command(self.pid)

    @property
    def parent(self) -> int:
        """The process that started it, or that took it over; 0 when it has ended."""
        try:
            return int(_stat(self.pid)[_PARENT])
        except (FileNotFoundError, ProcessLookupError):
            return 0

    @property
    def started_at(self) -> float:
        """When it was started, in seconds since the epoch, to about a second."""
        booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted_at + self.started / os.sysconf("SC_CLK_TCK")

    def is_of(self, runtime_dir: Path) -> bool:
        """Whether it carries the mark of the installation with this directory, which is resolved."""
        return self.instance != "" and Path(self.instance).resolve() == runtime_dir

    def leads(self, other: Self) -> bool:
        """Whether the other one is in the group that this one began: a child, or a child's child."""
        try:
            return other != self and int(_stat(other.pid)[_GROUP]) == self.pid
        except (FileNotFoundError, ProcessLookupError):
            return False

    def wait(self, timeout_s: float) -> None:
        """Return when it has ended, or the time is over."""
        with _handle(self.pid) as handle:
            if handle is not None and self.is_running:
                # Readable as soon as the process has ended.
                select.select([handle], [], [], timeout_s)

    def send(self, number: signal.Signals) -> bool:
        """Signal this very process; False when it has ended, whoever has its number now.

        Raises:
            NotAllowed: it is another user's.
        """
        with _handle(self.pid) as handle:
            # The handle stays with one process: what is verified from here on is what is signalled.
            # Its start comes first: of another user's process more is not to be seen.
            if handle is None or not self.is_running or Process.of(self.pid) != self:
                return False
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
                return True
        return False


_STATE: Final = 0
_PARENT: Final = 1
_GROUP: Final = 2
_STARTED: Final = 19
# A zombie, which nobody has waited for yet, and one that is just going.
_ENDED: Final = frozenset({"Z", "X"})


def is_supported() -> bool:
    """Whether this system tells enough of a process to be sure which one it is: Linux does."""
    return hasattr(os, "pidfd_open") and (_PROC / "self" / "stat").exists()


@cache
def boot_id() -> str:
    """What distinguishes this boot of the host from all others."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def marked(runtime_dir: Path) -> list[Process]:
    """Processes that carry the mark of the installation, but for this one and its ancestors.

    Those in containers are not ours, although they may use a directory of the same name. Of other
    users' processes root alone sees the mark.

    Raises:
        OwnerError: this system does not show it.
    """
    if not is_supported():
        raise OwnerError(_("only Linux shows which processes are ours: use --via supervisor"))
    found = [one for one in everyone() if one.is_of(runtime_dir) and _is_in_our_namespace(one.pid)]
    return sorted(found, key=lambda process: process.pid)


def everyone() -> Iterator[Process]:
    """The processes that this user may look at, but for this one and its ancestors."""
    spared = set(_ancestors())
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal() or int(entry.name) in spared:
            continue
        try:
            process = Process.of(int(entry.name))
        except NotAllowed:
            continue
        if process:
            yield process


def exists(pid: int) -> bool:
    """Whether some process has this number and has not ended, whoever's it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    # A host may hide others' processes; a zombie is shown to those who may see it.
    with suppress(FileNotFoundError, ProcessLookupError):
        return _stat(pid)[_STATE] not in _ENDED
    return True


@contextmanager
def _handle(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on; the second, a name, may hold anything."""
    text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return text.rpartition(")")[2].split()


def _instance(pid: int) -> str:
    return environment(pid).get(MARKER, "")


def environment(pid: int) -> dict[str, str]:
    """The environment that a process was started with.

    Raises:
        FileNotFoundError, ProcessLookupError, PermissionError: as the system says it.
    """
    variables = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    pairs = (os.fsdecode(variable).partition("=") for variable in variables)
    return {name: value for name, equals, value in pairs if equals}


def command(pid: int) -> str:
    """The command line of a process; empty when it has ended."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return " ".join(word.decode(errors="replace") for word in words).strip()


def _is_in_our_namespace(pid: int) -> bool:
    """Whether the process is in no container, or in the same one as this."""
    try:
        return (_PROC / str(pid) / "ns/pid").samefile(_PROC / "self/ns/pid")
    except OSError:  # it has ended
        return False


def _ancestors() -> Iterator[int]:
    pid = os.getpid()
    while pid:
        yield pid
        try:
            pid = int(_stat(pid)[_PARENT])
        except FileNotFoundError:  # it has just ended
            return
