from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from qaworker.errors import ConfigError, RunDirectoryError
from qaworker.models import Chunk, Outcome, Usage
from qaworker.store.database import DATABASE_NAME
from qaworker.store.ledger import Ledger
from qaworker.store.looking import look
from qaworker.store.run_lock import LOCK_NAME

DIGESTS = ("ok", "rejected", "dead", "sent", "waiting")
USAGE = Usage(input=300, output=90)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A run with a digest in each state, named for it."""
    made = Ledger.create_or_open(tmp_path)
    text = Chunk(
        chunk_id="c", text="Boats leave at dawn. 船は夜明けに出る。", language="en", pairs_wanted=1
    )
    made.fill((text, digest) for digest in DIGESTS)
    made.mark_filled(documents=5, skipped_rows=0)
    made.mark_sent(DIGESTS[:-1], now=5.0)
    made.record(
        [
            Outcome(digest="ok", kind="ok", run_id=made.run_id, usage=USAGE),
            Outcome(digest="rejected", kind="rejected", reason="no_pairs"),
            Outcome(digest="dead", kind="dead", reason="refused"),
        ]
    )
    return made


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_run_that_is_at_work_is_seen_and_goes_on(ledger: Ledger, tmp_path: Path) -> None:
    with ledger:
        seen = look(tmp_path)
        ledger.record([Outcome(digest="sent", kind="ok")])
    assert seen.run_id == ledger.run_id
    assert seen.usage == USAGE
    assert seen.settled == {"ok", "rejected", "dead"}
    assert look(tmp_path).settled == {"ok", "rejected", "dead", "sent"}


def test_nothing_is_written_and_no_lock_is_taken(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    (tmp_path / LOCK_NAME).unlink()
    before = content(tmp_path)
    look(tmp_path)
    assert content(tmp_path) == before


def test_what_is_no_run_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        look(tmp_path)
    path = tmp_path / DATABASE_NAME
    path.touch()
    with pytest.raises(RunDirectoryError, match="is empty"):
        look(tmp_path)
    assert path.read_bytes() == b""
    with closing(sqlite3.connect(path)) as foreign:
        foreign.execute("CREATE TABLE t (x)")
    with pytest.raises(ConfigError, match="is not a run's file"):
        look(tmp_path)
