"""The SQLite file of a run: its tables, how it is opened, its transactions and its errors.

Write-ahead logging with ``synchronous=NORMAL``: a killed process loses nothing that was committed,
a power failure at most the last commits, and never the consistency of the file.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from qaworker.errors import ConfigError, QAWorkerError, RunDirectoryError

DATABASE_NAME = "run.sqlite"
# "qawr": tells a run's file from another program's.
_APPLICATION_ID = 0x71617772
_VERSION = 1
# Five MiB more fill a ledger of 300,000 chunks 8 % faster, and stay for the whole run.
_CACHE_KIB = 3 * 1024

_SCHEMA = """
CREATE TABLE run (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO run VALUES ('run_id', lower(hex(randomblob(16))));

CREATE TABLE chunk (
    seq INTEGER PRIMARY KEY,     -- place in the dataset, from 1
    first INTEGER NOT NULL,      -- seq of the first chunk with the same digest
    body BLOB NOT NULL           -- compressed JSON
);
CREATE TABLE digest (
    seq INTEGER PRIMARY KEY,     -- of the first chunk that has it
    digest TEXT NOT NULL UNIQUE,
    chunks INTEGER NOT NULL DEFAULT 1,
    state TEXT NOT NULL DEFAULT 'waiting',  -- waiting, sent, or the kind of the outcome
    sent_at REAL                 -- last, in seconds since the epoch; NULL when it never was
);
CREATE INDEX digest_by_state ON digest (state);
CREATE TABLE outcome (
    seq INTEGER PRIMARY KEY,     -- of the digest
    body BLOB NOT NULL           -- JSON, compressed with the chunk's JSON as dictionary
);
CREATE TABLE tally (             -- sums over outcomes, kept with each of them
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (kind, reason, name)
) WITHOUT ROWID;
"""


def existing(directory: Path) -> Path:
    """The file of the run in a directory.

    Raises:
        ConfigError: there is none.
    """
    path = directory / DATABASE_NAME
    # Path.is_file() raises where a name is longer than a file's can be.
    if not os.path.isfile(path):  # noqa: PTH113
        raise ConfigError(
            f"{directory} is not a run directory (there is no {DATABASE_NAME} in it):"
            " name the --output of an earlier run"
        )
    return path


class Database:
    """One connection to a run's file, for the thread that opened it.

    Every method raises RunDirectoryError when the file cannot be read or written, and ConfigError
    when it is damaged.
    """

    def __init__(self, path: Path, *, mode: str = "rwc") -> None:
        self._path = path
        # As an address, so that its mode can be said.
        address = f"{path.absolute().as_uri()}?mode={mode}"
        with self._errors():
            self._connection = sqlite3.connect(address, uri=True, isolation_level=None)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a run's file, and make its tables when it is empty.

        Raises:
            ConfigError: the file is something else, damaged, or made by a newer version.
            RunDirectoryError: the file cannot be read or written.
        """
        database = cls(path)
        try:
            database._prepare()
        except BaseException:
            database.close()
            raise
        return database

    @classmethod
    def look_into(cls, path: Path) -> Self:
        """Open a run's file for reading, which another process may be writing.

        Raises:
            ConfigError: the file is something else, damaged, or made by a newer version.
            RunDirectoryError: the file cannot be read, or has no tables yet.
        """
        # Not "ro", which leaves the files of the write-ahead log behind.
        database = cls(path, mode="rw")
        try:
            database.query("PRAGMA query_only = ON")
            database._check()
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self) -> None:
        if self._is_empty():
            with self._errors():
                self._connection.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA}"
                    f"PRAGMA application_id = {_APPLICATION_ID};"
                    f"PRAGMA user_version = {_VERSION}; COMMIT"
                )
        self._check()
        self.query("PRAGMA journal_mode = WAL")
        self.query("PRAGMA synchronous = NORMAL")
        self.query(f"PRAGMA cache_size = -{_CACHE_KIB}")

    def _is_empty(self) -> bool:
        return not self.query("SELECT 1 FROM sqlite_master LIMIT 1")

    def _check(self) -> None:
        if self._is_empty():
            raise RunDirectoryError(f"{self._path} is empty: its command has yet to begin")
        if self.query("PRAGMA application_id") != [(_APPLICATION_ID,)]:
            raise ConfigError(f"{self._path} is not a run's file: give another --output")
        ((version,),) = self.query("PRAGMA user_version")
        if version > _VERSION:
            raise ConfigError(
                f"{self._path} was made by a newer version of qaworker:"
                " use that one, or give another --output"
            )

    def close(self) -> None:
        """Merge the log into the file and let go of it."""
        with self._errors():
            self._connection.close()

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """All rows of a statement."""
        with self._errors():
            return self._connection.execute(sql, values).fetchall()

    def stream(self, sql: str) -> Iterator[Any]:
        """The rows of a statement, one at a time; nothing may be written meanwhile."""
        with self._errors():
            yield from self._connection.execute(sql)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything in the block, or nothing of it."""
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.ProgrammingError, sqlite3.IntegrityError):
            raise
        except sqlite3.Error as error:
            raise _translated(error, self._path) from error


def _translated(error: sqlite3.Error, path: Path) -> QAWorkerError:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return ConfigError(f"{path} is damaged or not a run's file: give another --output")
    if name == "SQLITE_FULL":
        return RunDirectoryError(
            f"no space is left for {path}: free some and run the same command again"
        )
    return RunDirectoryError(
        f"{path} cannot be read or written ({error}):"
        " correct it and run the same command again, or give another --output"
    )
