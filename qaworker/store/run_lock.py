"""The lock that admits one writer to a run directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TextIO

from qaworker.errors import RunDirectoryError

LOCK_NAME = "lock"


def acquire(directory: Path) -> TextIO:
    """Lock ``directory`` until the returned file is closed or the process ends, however it ends.

    The file stays behind: removing it would let two processes lock two files of one name.

    Raises:
        RunDirectoryError: another process holds the lock, or there is no writing here.
    """
    try:
        file = (directory / LOCK_NAME).open("a+", encoding="ascii")
    except OSError as error:
        raise RunDirectoryError(
            f"{directory} cannot be written ({error.strerror}): correct it, or give another --output"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunDirectoryError(
            f"{directory} is in use by process {holder}: wait for it, or give another --output"
        ) from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file
