"""The lock that lets one command at a time start or stop the workers of an installation."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from gettext import gettext as _
from pathlib import Path
from typing import Final

from qaworker.errors import Busy
from qaworker.owners.files import writing

LOCK_NAME: Final = "service.lock"


@contextmanager
def locked(runtime_dir: Path, action: str) -> Iterator[None]:
    """Hold the lock; it ends with the process, however that ends. The file stays behind.

    Raises:
        Busy: another command holds it.
        NotAllowed, OwnerError: the directory cannot be written.
    """
    with writing(runtime_dir):
        runtime_dir.mkdir(parents=True, exist_ok=True)
        # Root follows no link that the user of the directory may have left.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(runtime_dir / LOCK_NAME, flags, 0o644)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise Busy(
                _("another command is at work here ({holder}): wait for it, or end it").format(
                    holder=file.read().strip()
                )
            ) from error
        file.truncate(0)
        file.write(f"{action}, process {os.getpid()}")
        file.flush()
        yield
