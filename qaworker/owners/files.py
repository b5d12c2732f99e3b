"""Files that owners leave for themselves and others: no link is followed, and failures are our errors.

Root writes into directories of the installation's user, who may have left anything there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from gettext import gettext as _
from pathlib import Path
from typing import TextIO

from qaworker.errors import NotAllowed, OwnerError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise what fails here as NotAllowed or OwnerError, naming ``path``."""
    try:
        yield
    except PermissionError as error:
        raise NotAllowed(
            _("{path} cannot be written: run this as root, or as the one who started it").format(
                path=path
            )
        ) from error
    except OSError as error:
        raise OwnerError(
            _("{path}: {reason}: correct it, or name another directory").format(
                path=path, reason=error.strerror
            )
        ) from error


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all: nobody reads a half; raises as :func:`writing`."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                os.fchmod(descriptor, 0o644)
                file.write(text)
            Path(new).replace(path)
        finally:
            Path(new).unlink(missing_ok=True)


def open_to_keep(path: Path, flags: int) -> int:
    """Open a file that stays, or make it; the descriptor. Raises as :func:`writing`.

    What root makes is given to the owner of its directory: else one command of root's would lock out
    the installation's user.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o644)
        if os.geteuid() == 0:
            place = path.parent.stat()
            os.fchown(descriptor, place.st_uid, place.st_gid)
        return descriptor


def open_log(path: Path) -> TextIO:
    """Open a log file to append to; raises as :func:`writing`."""
    return os.fdopen(open_to_keep(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")
