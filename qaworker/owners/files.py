"""Small files that owners leave for themselves and others: written whole, with our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from gettext import gettext as _
from pathlib import Path

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
        new = path.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(path)
