"""Ends worker processes: in order as long as there is time, and by force what is left."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from gettext import gettext as _
from pathlib import Path
from typing import Final

from qaworker.errors import OwnerError
from qaworker.owners.processes import Process, marked

# A worker that was sent QUIT ends within 5 s.
QUIT_GRACE_S: Final = 7.0
KILL_GRACE_S: Final = 5.0


def kill_marked(runtime_dir: Path) -> None:
    """KILL everything that carries the mark of the installation, what it starts meanwhile too.

    Raises:
        OwnerError: something does not end; it waits for a device, and no signal reaches it.
    """
    give_up_at = time.monotonic() + KILL_GRACE_S
    while left := marked(runtime_dir):
        if time.monotonic() > give_up_at:
            raise OwnerError(_("process {pid} does not end").format(pid=left[0].pid))
        _told(left, signal.SIGKILL, 1.0)


def end(processes: Iterable[Process], timeout_s: float) -> None:
    """End worker processes in order, and by force what is left of them when the time is over.

    TERM, then QUIT and in the end KILL go to the main processes alone: a child that is signalled
    loses its task (celery#2700). Children are killed after their main process.

    Raises:
        NotAllowed: they are another user's.
    """
    left = _told(processes, signal.SIGTERM, timeout_s)
    left = _told(left, signal.SIGQUIT, QUIT_GRACE_S)
    for process in left:
        children = led_by(process)
        _told([process, *children], signal.SIGKILL, KILL_GRACE_S)


def led_by(process: Process) -> list[Process]:
    """The children of a worker's main process, and theirs."""
    return [one for one in marked(Path(process.instance).resolve()) if process.leads(one)]


def _told(processes: Iterable[Process], number: signal.Signals, timeout_s: float) -> list[Process]:
    """Send a signal to processes; those that run ``timeout_s`` later all the same."""
    left = [process for process in processes if process.send(number)]
    give_up_at = time.monotonic() + timeout_s
    while left := [process for process in left if process.is_running]:
        if (rest_s := give_up_at - time.monotonic()) <= 0:
            break
        left[0].wait(min(rest_s, 1.0))
    return left
