"""The ledger of a run: its chunks, which of them were sent, and what became of them.

One SQLite file in the run directory, written by one process. Chunks of equal digest are sent once
and share an outcome.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Self, TextIO

from qaworker.errors import ConfigError, RunDirectoryError
from qaworker.models import Chunk, Outcome
from qaworker.store import run_lock, tally
from qaworker.store.database import DATABASE_NAME, Database, existing
from qaworker.store.packing import pack_chunk, pack_outcome, unpack_chunk, unpack_outcome
from qaworker.store.tally import Counts

# Rows of one transaction while the ledger is filled: some 4 MB of chunks in memory.
_FILL_ROWS = 2_000
_PAGE_ROWS = 1_000
# The plus keeps SQLite from the index by state, which has all that is left sorted for each page; the
# primary key has it in order.
_UNSETTLED = "+state IN ('waiting', 'sent')"


class Ledger:
    """A run directory, locked for this process; used by the thread that opened it.

    Every method raises RunDirectoryError when the directory cannot be read or written (full, gone,
    not permitted), and ConfigError when the file is damaged. A process killed at any moment leaves
    a ledger that the next one goes on with.
    """

    run_id: str
    """32 hex digits, given when the run was made."""

    def __init__(self, database: Database, lock: TextIO) -> None:
        self._database = database
        self._lock = lock
        ((self.run_id,),) = database.query("SELECT value FROM run WHERE name = 'run_id'")

    @classmethod
    def create_or_open(cls, directory: Path) -> Self:
        """Make a run directory, or go on with the run in it.

        Raises:
            RunDirectoryError: another process works on the run, or there is no writing here.
            ConfigError: what is there is not a run of this version.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunDirectoryError(
                f"{directory} cannot be made ({error.strerror}): give another --output"
            ) from error
        lock = run_lock.acquire(directory)
        try:
            return cls(Database.open(directory / DATABASE_NAME), lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Go on with the run in a directory.

        Raises:
            RunDirectoryError: another process works on the run, or there is no writing here.
            ConfigError: there is no run of this version.
        """
        existing(directory)
        return cls.create_or_open(directory)

    def close(self) -> None:
        """Let go of the directory."""
        try:
            self._database.close()
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def description(self) -> dict[str, Any]:
        """What the run was made with; empty until :meth:`describe`."""
        description: dict[str, Any] = json.loads(self._read("description") or "{}")
        return description

    def describe(self, description: Mapping[str, Any]) -> None:
        """Say what the run is made with, as JSON without secrets: for good once it is filled.

        Raises:
            ConfigError: the run was made with something else.
        """
        text = json.dumps(description, ensure_ascii=False)
        stored = self._read("description")
        if stored is None or not self.filled:
            self._write("description", text)
        elif difference := _difference(json.loads(stored), json.loads(text)):
            raise ConfigError(f"this run was {difference}: give another --output")

    @property
    def budget_micros(self) -> int | None:
        """Micro-dollars the run may cost; None when nobody said."""
        stored = self._read("budget_micros")
        return None if stored is None else int(stored)

    def set_budget(self, micros: int) -> None:
        """Say what the run may cost."""
        self._write("budget_micros", str(micros))

    @property
    def filled(self) -> bool:
        """Whether all chunks are in."""
        return self._read("totals") is not None

    def fill(self, chunks: Iterable[tuple[Chunk, str]]) -> None:
        """Store the chunks of the dataset with their digests, in document order.

        Begins anew when an earlier filling did not reach :meth:`mark_filled`.
        """
        if self.filled:
            raise ValueError("the ledger is filled")
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM chunk")
            connection.execute("DELETE FROM digest")
        numbered = enumerate(chunks, start=1)
        while rows := [
            (seq, digest, chunk) for seq, (chunk, digest) in islice(numbered, _FILL_ROWS)
        ]:
            with self._database.transaction() as connection:
                connection.executemany(
                    "INSERT INTO digest (seq, digest) VALUES (?, ?)"
                    " ON CONFLICT (digest) DO UPDATE SET chunks = chunks + 1",
                    ((seq, digest) for seq, digest, _ in rows),
                )
                connection.executemany(
                    "INSERT INTO chunk (seq, first, body)"
                    " VALUES (?, (SELECT seq FROM digest WHERE digest = ?), ?)",
                    ((seq, digest, pack_chunk(chunk)) for seq, digest, chunk in rows),
                )

    def mark_filled(self, *, documents: int, skipped_rows: int) -> None:
        """Say that all chunks are in, and what they were made from."""
        ((chunks,),) = self._database.query("SELECT count(*) FROM chunk")
        ((distinct,),) = self._database.query("SELECT count(*) FROM digest")
        totals = {
            "documents": documents,
            "skipped_rows": skipped_rows,
            "chunks": chunks,
            "distinct": distinct,
        }
        self._write("totals", json.dumps(totals))

    def waiting(self, limit: int) -> list[tuple[Chunk, str]]:
        """The next chunks to send with their digests, in document order, each digest once."""
        rows = self._database.query(
            "SELECT body, digest FROM digest JOIN chunk USING (seq)"
            " WHERE state = 'waiting' ORDER BY seq LIMIT ?",
            (limit,),
        )
        return [(unpack_chunk(body), digest) for body, digest in rows]

    def unsettled(self) -> Iterator[tuple[Chunk, str]]:
        """All chunks without an outcome with their digests, in document order, each digest once."""
        select = "SELECT body, digest, seq FROM digest JOIN chunk USING (seq)"
        rows = self._walk(select, where=_UNSETTLED)
        return ((unpack_chunk(body), digest) for body, digest, _ in rows)

    def unsettled_digests(self) -> Iterator[str]:
        """The digests of :meth:`unsettled`; recording while this is read is allowed."""
        rows = self._walk("SELECT digest, seq FROM digest", where=_UNSETTLED)
        return (digest for digest, _ in rows)

    def mark_sent(self, digests: Iterable[str], now: float) -> None:
        """Say that chunks are about to be sent, again or for the first time.

        Call it before publishing: a message without a mark would be sent twice, a mark without a
        message is found among :meth:`sent`.

        Args:
            digests: those that have an outcome are left alone.
            now: seconds since the epoch.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE digest SET state = 'sent', sent_at = ?"
                " WHERE digest = ? AND state IN ('waiting', 'sent')",
                ((now, digest) for digest in digests),
            )

    def mark_waiting(self, digests: Iterable[str]) -> None:
        """Take back :meth:`mark_sent`."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE digest SET state = 'waiting', sent_at = NULL"
                " WHERE digest = ? AND state = 'sent'",
                ((digest,) for digest in digests),
            )

    def await_again(self, digests: Iterable[str]) -> None:
        """Let what was sent and has no outcome be sent again; messages of it may be left."""
        with self._database.transaction() as connection:
            connection.executemany(
                "UPDATE digest SET state = 'waiting' WHERE digest = ? AND state = 'sent'",
                ((digest,) for digest in digests),
            )

    def mark_all_waiting(self) -> None:
        """:meth:`await_again` for all of it."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE digest SET state = 'waiting' WHERE state = 'sent'")

    @property
    def was_sent(self) -> bool:
        """Whether anything ever was, whatever became of it."""
        return bool(self._database.query("SELECT 1 FROM digest WHERE sent_at IS NOT NULL LIMIT 1"))

    def reopen(self, sent: Iterable[tuple[str, float]]) -> int:
        """Await new outcomes of dead chunks that somebody else sent again.

        Their costs stay counted: they were paid. Digests that are not dead are left alone.

        Args:
            sent: digests, each with the time it was sent, in seconds since the epoch.

        Returns:
            How many digests lost their outcome.
        """
        reopened = 0
        changes = tally.Sums()
        with self._database.transaction() as connection:
            for digest, sent_at in sent:
                row = connection.execute(
                    "SELECT seq, chunks, chunk.body, outcome.body FROM digest"
                    " JOIN chunk USING (seq) JOIN outcome USING (seq)"
                    " WHERE digest = ? AND state = 'dead'",
                    (digest,),
                ).fetchone()
                if row is None:
                    continue
                seq, chunks, chunk_body, body = row
                dead = unpack_outcome(body, chunk_body)
                changes.subtract(tally.results(dead, chunks, self.run_id))
                connection.execute("DELETE FROM outcome WHERE seq = ?", (seq,))
                connection.execute(
                    "UPDATE digest SET state = 'sent', sent_at = ? WHERE seq = ?", (sent_at, seq)
                )
                reopened += 1
            _add(connection, changes)
        return reopened

    def sent(self) -> Iterator[tuple[str, float]]:
        """What was sent and has no outcome, with the time of the last sending, in document order.

        Marking and recording while this is read is allowed.
        """
        rows = self._walk("SELECT digest, sent_at, seq FROM digest", where="state = 'sent'")
        return ((digest, sent_at) for digest, sent_at, _ in rows)

    def record(self, outcomes: Iterable[Outcome]) -> int:
        """Store outcomes, all or none of them.

        The first outcome of a digest stays, except that an answer replaces a dead one. Digests
        that are not of this run are ignored.

        Returns:
            How many digests had no outcome before.
        """
        added = 0
        changes = tally.Sums()
        with self._database.transaction() as connection:
            for outcome in outcomes:
                row = connection.execute(
                    "SELECT seq, chunks, state, chunk.body, outcome.body FROM digest"
                    " JOIN chunk USING (seq) LEFT JOIN outcome USING (seq) WHERE digest = ?",
                    (outcome.digest,),
                ).fetchone()
                if row is None:
                    continue
                seq, chunks, state, chunk_body, previous = row
                if state in {"ok", "rejected", outcome.kind}:
                    continue
                if state == "dead":
                    # Its costs stay counted: they were paid.
                    dead = unpack_outcome(previous, chunk_body)
                    changes.subtract(tally.results(dead, chunks, self.run_id))
                else:
                    added += 1
                changes.update(tally.results(outcome, chunks, self.run_id))
                changes.update(tally.costs(outcome, self.run_id))
                connection.execute(
                    "INSERT OR REPLACE INTO outcome (seq, body) VALUES (?, ?)",
                    (seq, pack_outcome(outcome, chunk_body)),
                )
                connection.execute("UPDATE digest SET state = ? WHERE seq = ?", (outcome.kind, seq))
            _add(connection, changes)
        return added

    def counts(self) -> Counts:
        """What the run amounts to so far; chunks are counted when all are in."""
        totals = json.loads(self._read("totals") or "{}")
        return tally.counts(totals, self._database.query("SELECT * FROM tally"))

    def results(self) -> Iterator[tuple[Chunk, Outcome]]:
        """The chunks that have an outcome, in document order; record nothing while this is read."""
        rows = self._database.stream(
            "SELECT chunk.body, first.body, outcome.body FROM chunk"
            " JOIN chunk AS first ON first.seq = chunk.first"
            " JOIN outcome ON outcome.seq = chunk.first ORDER BY chunk.seq"
        )
        for body, first_body, outcome_body in rows:
            yield unpack_chunk(body), unpack_outcome(outcome_body, first_body)

    def _walk(self, select: str, *, where: str) -> Iterator[Any]:
        """Rows, whose last column is ``seq``, in its order; between two pages nothing is open."""
        last = 0
        while rows := self._database.query(
            f"{select} WHERE {where} AND seq > ? ORDER BY seq LIMIT ?", (last, _PAGE_ROWS)
        ):
            yield from rows
            *_, last = rows[-1]

    def _read(self, name: str) -> str | None:
        rows = self._database.query("SELECT value FROM run WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def _write(self, name: str, value: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO run (name, value) VALUES (?, ?)", (name, value)
            )


def _add(connection: sqlite3.Connection, changes: tally.Sums) -> None:
    connection.executemany(
        "INSERT INTO tally (kind, reason, name, value) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (kind, reason, name) DO UPDATE SET value = value + excluded.value",
        ((*key, value) for key, value in changes.items()),
    )


def _difference(stored: Any, given: Any, name: str = "") -> str:
    """Where two JSON values differ first: "made with model=A, not B"; empty when they do not."""
    if isinstance(stored, dict) and isinstance(given, dict):
        for key in stored | given:
            path = f"{name}.{key}" if name else key
            if difference := _difference(stored.get(key), given.get(key), path):
                return difference
        return ""
    return "" if stored == given else f"made with {name}={stored}, not {given}"
