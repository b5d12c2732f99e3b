"""What a run directory survives: other writers, kills, foreign files, full disks, damage."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qaworker.errors import ConfigError, ExitCode, RunDirectoryError
from qaworker.models import Chunk, Outcome
from qaworker.store.ledger import Ledger

TEXTS = ["Boats leave at dawn.", "船は夜明けに出る。"]


def chunk(number: int) -> Chunk:
    text = f"{TEXTS[number % 2]} {number}"
    language = "ja" if number % 2 else "en"
    return Chunk(chunk_id=f"c{number}", text=text, language=language, pairs_wanted=1)


def fill(ledger: Ledger, chunks: int) -> None:
    ledger.fill((chunk(n), f"d{n}") for n in range(chunks))
    ledger.mark_filled(documents=chunks, skipped_rows=0)


def rejected(digest: str) -> Outcome:
    return Outcome(digest=digest, kind="rejected", reason="no_pairs")


def killed_when_ready(script: str, directory: Path) -> None:
    """Run a script on the run directory and kill it when it prints."""
    preamble = f"""
import sys
from pathlib import Path
from qaworker.models import Chunk, Outcome
from qaworker.store.ledger import Ledger

ledger = Ledger.create_or_open(Path({str(directory)!r}))
def chunk(n):
    return Chunk(chunk_id=f"c{{n}}", text=f"text {{n}}", language="en", pairs_wanted=1)
def wait():
    print("ready", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", preamble + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        finally:
            process.kill()


def test_the_state_outlives_the_process(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path) as first:
        fill(first, 4)
        first.describe({"model": "A"})
        first.mark_sent(["d0", "d1"], now=5.0)
        first.record([rejected("d0")])
        run_id, counts = first.run_id, first.counts()
    with Ledger.open(tmp_path) as second:
        assert second.run_id == run_id
        assert second.filled
        assert second.description == {"model": "A"}
        assert second.counts() == counts
        assert list(second.sent()) == [("d1", 5.0)]
        assert [digest for _, digest in second.waiting(9)] == ["d2", "d3"]


def test_every_run_has_an_id_of_its_own(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path / "a") as a, Ledger.create_or_open(tmp_path / "b") as b:
        assert len(a.run_id) == len(b.run_id) == 32
        assert a.run_id != b.run_id


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path):
        for opening in (Ledger.create_or_open, Ledger.open):
            with pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}:") as e:
                opening(tmp_path)
            assert e.value.exit_code == ExitCode.TRY_AGAIN
    Ledger.open(tmp_path).close()


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run directory"):
        Ledger.open(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunDirectoryError, match="cannot be made"):
        Ledger.create_or_open(tmp_path / "file" / "run")


@pytest.mark.parametrize("content", [b"question,answer\n" * 100, "質問、答え\n".encode() * 100])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.sqlite").write_bytes(content)
    with pytest.raises(ConfigError, match="not a run's file"):
        Ledger.open(tmp_path)
    assert (tmp_path / "run.sqlite").read_bytes() == content


@contextmanager
def database(directory: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(directory / "run.sqlite")
    with connection:
        yield connection
    connection.close()


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with database(tmp_path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(ConfigError, match="not a run's file"):
        Ledger.create_or_open(tmp_path)


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Ledger.create_or_open(tmp_path).close()
    with database(tmp_path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="newer version"):
        Ledger.open(tmp_path)


def test_damage_is_reported(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path) as ledger:
        fill(ledger, 3000)
    path = tmp_path / "run.sqlite"
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged"), Ledger.open(tmp_path) as ledger:
        ledger.waiting(3000)


def test_a_damaged_row_is_reported(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path) as ledger:
        fill(ledger, 1)
    with database(tmp_path) as connection:
        connection.execute("UPDATE chunk SET body = x'00'")
    with pytest.raises(ConfigError, match="damaged"), Ledger.open(tmp_path) as ledger:
        ledger.waiting(1)


def test_a_full_database_is_reported_and_keeps_what_it_had(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path) as ledger:
        fill(ledger, 500)
        ledger.record([rejected("d0")])
        ledger._database.query("PRAGMA max_page_count = 1")  # as many as there are
        with pytest.raises(RunDirectoryError, match="no space is left") as error:
            ledger.record(rejected(f"d{n}") for n in range(500))
        assert error.value.exit_code == ExitCode.TRY_AGAIN
        assert ledger.counts().settled == 1
        ledger._database.query("PRAGMA max_page_count = 100000")
        assert ledger.record(rejected(f"d{n}") for n in range(500)) == 499


def test_a_write_that_fails_is_reported(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Ledger.create_or_open(tmp_path) as ledger:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(RunDirectoryError, match=r"run\.sqlite cannot be read or written"):
                fill(ledger, 5000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        fill(ledger, 5000)
        assert ledger.counts().chunks == 5000


def test_a_killed_filling_begins_anew(tmp_path: Path) -> None:
    killed_when_ready(
        """
def chunks():
    for n in range(5000):
        yield chunk(n), f"old{n}"
    wait()
ledger.fill(chunks())
""",
        tmp_path,
    )
    with Ledger.create_or_open(tmp_path) as ledger:
        assert not ledger.filled
        fill(ledger, 3)
        assert ledger.waiting(9) == [(chunk(n), f"d{n}") for n in range(3)]


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    killed_when_ready(
        """
ledger.fill((chunk(n), f"d{n}") for n in range(100))
ledger.mark_filled(documents=100, skipped_rows=0)
ledger.mark_sent([f"d{n}" for n in range(50)], now=1.0)
ledger.record(Outcome(digest=f"d{n}", kind="rejected") for n in range(10))
def outcomes():
    yield Outcome(digest="d10", kind="rejected")
    wait()
ledger.record(outcomes())
""",
        tmp_path,
    )
    with Ledger.open(tmp_path) as ledger:
        counts = ledger.counts()
        assert (counts.chunks, counts.settled) == (100, 10)
        assert [digest for digest, _ in ledger.sent()] == [f"d{n}" for n in range(10, 50)]
        assert len(ledger.waiting(999)) == 50
        assert len(list(ledger.results())) == 10
