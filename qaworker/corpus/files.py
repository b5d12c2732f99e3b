"""The files of a dataset: which they are, how they are opened, and whether they changed."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, Final, cast

from qaworker.errors import InputError

ENDINGS: Final = (".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", ".md")
"""What can be read; each also with ``.gz`` behind it."""

# The largest single text, row or field; beyond it something is wrong with the file (an open quote).
MAX_TEXT_MB: Final = 64
MAX_TEXT: Final = MAX_TEXT_MB << 20

_GZIP_MAGIC: Final = b"\x1f\x8b"
_READ_AT_ONCE: Final = 1 << 20


def ending(path: Path) -> str:
    """What kind of file ``path`` names, without ``.gz``; empty when it cannot be read."""
    name = path.name.lower().removesuffix(".gz")
    return next((known for known in ENDINGS if name.endswith(known)), "")


def stem(path: Path) -> str:
    """The name of ``path`` without its endings: ``news`` for ``news.csv.gz``."""
    name = path.name[: -len(".gz")] if is_gzip(path) else path.name
    return name[: -len(ending(path))]


def is_gzip(path: Path) -> bool:
    """Whether the name says that the file is compressed."""
    return path.name.lower().endswith(".gz")


def find(path: Path) -> list[Path]:
    """The files to read: ``path`` itself, or those under the directory ``path``, sorted.

    Hidden files and files of other kinds in a directory are no part of the dataset.

    Raises:
        InputError: there is nothing to read.
    """
    try:
        is_there = path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not is_there:
        raise InputError(f"{path}: no such file or directory: check the name")
    kinds = f"{', '.join(ENDINGS)} (or one of them with .gz)"
    if not path.is_dir():
        if not ending(path):
            raise InputError(f"{path}: unknown kind of file: its name must end in {kinds}")
        return _named([path])
    files = [file for file in _visible(path) if ending(file) and file.is_file()]
    if not files:
        raise InputError(f"{path}: nothing to read: put files there that end in {kinds}")
    return _named(sorted(files, key=lambda file: file.relative_to(path).as_posix()))


def left_out(path: Path) -> Counter[str]:
    """How many files under the directory ``path`` cannot be read, by the ending of their names."""
    others = (file for file in _visible(path) if not ending(file))
    # What cannot be looked at is none, where Path.is_file() would raise.
    there = (file for file in others if os.path.isfile(file))  # noqa: PTH113
    return Counter(file.suffix.lower() or "(none)" for file in there)


def _visible(path: Path) -> Iterator[Path]:
    for found in path.rglob("*"):
        if not any(part.startswith(".") for part in found.relative_to(path).parts):
            yield found


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of ``path``, decompressed; what goes wrong while they are read becomes ours.

    Raises:
        InputError: the file cannot be opened, is empty, or is not what its name says.
    """
    try:
        with path.open("rb") as raw:
            _check_magic(path, raw)
            if is_gzip(path):
                with gzip.open(raw) as unpacked:
                    _check_text(path, cast("IO[bytes]", unpacked))
                    yield cast("IO[bytes]", unpacked)
            else:
                _check_text(path, raw)
                yield raw
    except EOFError as error:
        raise InputError(
            f"{path}: the gzip file is cut off: copy or download it again, and try `gzip -t`"
        ) from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}): get it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def seekable(path: Path) -> Iterator[IO[bytes]]:
    """Like ``opened``; a compressed file is unpacked to a temporary file on disk first."""
    with opened(path) as file:
        if not is_gzip(path):
            yield file
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(file, unpacked, _READ_AT_ONCE)
            unpacked.seek(0)
            yield unpacked


def fingerprint(path: Path) -> str:
    """A digest of the dataset at ``path``, by which a resumed run tells that it changed.

    BLAKE2b over the bytes of a file, or over the names and bytes of a directory's files.

    Raises:
        InputError: there is nothing to read, or a file cannot be read.
    """
    digest = blake2b(digest_size=16)
    for file in find(path):
        try:
            with file.open("rb") as raw:
                if path.is_dir():
                    size = file.stat().st_size
                    digest.update(f"{file.relative_to(path).as_posix()}\0{size}\0".encode())
                while block := raw.read(_READ_AT_ONCE):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def _named(files: list[Path]) -> list[Path]:
    """Those files, whose names become ids of documents and go into JSON."""
    for file in files:
        try:
            str(file).encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(file).decode(errors="backslashreplace")
            raise InputError(
                f"{shown}: its name is not UTF-8: rename it, as"
                " `convmv -f cp932 -t utf8 --notest` does with Japanese ones of Windows"
            ) from error
    return files


def _check_magic(path: Path, raw: IO[bytes]) -> None:
    start = raw.read(2)
    raw.seek(0)
    compressed = start == _GZIP_MAGIC
    if start and is_gzip(path) and not compressed:
        raise InputError(f"{path}: is not a gzip file: compress it, or take .gz off its name")
    if compressed and not is_gzip(path):
        raise InputError(f"{path}: is a gzip file: rename it to {path.name}.gz")


def _check_text(path: Path, file: IO[bytes]) -> None:
    start = file.read(8192)
    file.seek(0)
    if not start:
        # An empty text file is an empty row, and may be skipped.
        if ending(path) in {".txt", ".md"}:
            return
        raise InputError(f"{path}: is empty: fill it, or take it away")
    if ending(path) == ".parquet" or b"\0" not in start:
        return
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(
            f"{path}: is UTF-16, not UTF-8: convert it with `iconv -f UTF-16 -t UTF-8`"
        )
    raise InputError(f"{path}: is binary, not text: export it as CSV, JSON or Parquet")
