"""Takes the lock from a command that is at work: a stop by force waits for nobody."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from qaworker.errors import Busy
from qaworker.owners import processes
from qaworker.owners.lock import LOCK_NAME, locked

_END_S: Final = 5.0
_POLL_S: Final = 0.1


@contextmanager
def taken_over(runtime_dir: Path, action: str) -> Iterator[None]:
    """Hold the lock, after killing the command that holds it: from here on nobody starts a worker.

    Raises:
        Busy: whoever holds it does not end, or is not to be seen, as in a container.
        NotAllowed, OwnerError: the directory cannot be written.
    """
    give_up_at = time.monotonic() + _END_S
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(locked(runtime_dir, action))
                break
            except Busy:
                if time.monotonic() > give_up_at:
                    raise
            _kill_holder(runtime_dir / LOCK_NAME)
            time.sleep(_POLL_S)
        yield


def _kill_holder(lock: Path) -> None:
    everyone = list(processes.everyone())
    for holder in everyone:
        if _holds(holder.pid, lock):
            # A supervisord that it is just starting would start workers; those it has started
            # carry the mark, and are ended as their owner ends them.
            others = [one for one in everyone if one.parent == holder.pid and not one.instance]
            for one in (holder, *others):
                one.send(signal.SIGKILL)


def _holds(pid: int, lock: Path) -> bool:
    """Whether a process has locked this very file, as the kernel says it."""
    process = Path("/proc") / str(pid)
    try:
        return any(
            file.samefile(lock) and "FLOCK" in (process / "fdinfo" / file.name).read_text("ascii")
            for file in (process / "fd").iterdir()
        )
    except OSError:  # it has just closed one, or ended: it is looked at again
        return False
