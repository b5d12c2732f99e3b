"""The lock that lets one command at a time start or stop the workers of an installation."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from gettext import gettext as _
from pathlib import Path
from typing import Final

from qaworker.errors import Busy
from qaworker.owners.files import open_to_keep

LOCK_NAME: Final = "service.lock"


@contextmanager
def locked(runtime_dir: Path, action: str, name: str = LOCK_NAME) -> Iterator[None]:
    """Hold the lock; it ends with the process, however that ends. The file stays behind.

    Raises:
        Busy: another command holds it.
        NotAllowed, OwnerError: the directory cannot be written.
    """
    descriptor = open_to_keep(runtime_dir / name, os.O_RDWR)
    with os.fdopen(descriptor, "rb+", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                _("another command is at work here ({holder}): wait for it, or end it").format(
                    holder=file.read().decode(errors="replace").strip()
                )
            ) from error
        # On a full disk it is not told who holds it; it is held all the same.
        with suppress(OSError):
            file.truncate(0)
            file.write(f"{action}, process {os.getpid()}".encode())
        yield
