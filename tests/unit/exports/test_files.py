from __future__ import annotations

import csv
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet

from qaworker.errors import ExitCode, RunDirectoryError
from qaworker.exports import files
from qaworker.exports.files import export
from qaworker.exports.rows import Row
from qaworker.models import Chunk, Outcome, QAPair

TEXTS = ['Boats leave at dawn, "early".\n', "船は夜明けに出る。𠮷"]
NAMES = ["qa_pairs.jsonl", "qa_pairs.csv", "qa_pairs.parquet", "summary.json"]


def results(chunks: int) -> Iterator[tuple[Chunk, Outcome]]:
    """Two pairs of every chunk but each fourth, which is rejected."""
    for n in range(chunks):
        text = f"{TEXTS[n % 2]} {n}"
        chunk = Chunk(
            chunk_id=f"c{n}",
            text=text,
            language="ja" if n % 2 else "en",
            pairs_wanted=2,
            doc_id=f"d{n // 3}",
            chunk_idx=n % 3,
        )
        pair = QAPair(
            question=f"={text}?",
            answer=text,
            question_type="fact",
            difficulty="easy",
            evidence=text,
        )
        if n % 4:
            yield chunk, Outcome(digest=f"{n}", kind="ok", pairs=(pair, pair))
        else:
            yield chunk, Outcome(digest=f"{n}", kind="rejected", reason="no_pairs")


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BATCH_ROWS", 7)


@pytest.mark.usefixtures("small_batches")
def test_every_format_holds_the_pairs_in_order(tmp_path: Path) -> None:
    paths = export(tmp_path, results(20), {"chunks": 20})
    assert paths == [tmp_path / name for name in NAMES]
    assert sorted(contents(tmp_path)) == sorted(NAMES)

    with paths[0].open(encoding="utf-8", newline="\n") as lines:
        objects = [json.loads(line) for line in lines]
    assert [o["source_chunk_id"] for o in objects] == [
        f"c{n}" for n in range(20) if n % 4 for _ in range(2)
    ]
    assert list(objects[0]) == list(Row._fields)
    assert objects[0]["answer"] == f"{TEXTS[1]} 1"

    with paths[1].open(encoding="utf-8-sig", newline="") as lines:
        cells = list(csv.DictReader(lines))
    assert cells == [
        o | {"chunk_idx": str(o["chunk_idx"]), "question": f"'{o['question']}"} for o in objects
    ]

    assert parquet.read_table(paths[2]).to_pylist() == objects
    assert parquet.ParquetFile(paths[2]).num_row_groups == 5
    assert json.loads(paths[3].read_text()) == {"chunks": 20}


def test_japanese_is_written_as_such(tmp_path: Path) -> None:
    export(tmp_path, results(4), {})
    assert "船は夜明けに出る。𠮷" in (tmp_path / "qa_pairs.jsonl").read_text(encoding="utf-8")


@pytest.mark.usefixtures("small_batches")
def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export(tmp_path / name, results(50), {"chunks": 50})
        written.append(contents(tmp_path / name))
    assert written[0] == written[1]


def test_a_run_without_pairs_has_empty_files(tmp_path: Path) -> None:
    paths = export(tmp_path, results(1), {})
    assert paths[0].read_bytes() == b""
    assert len(paths[1].read_bytes().splitlines()) == 1
    assert parquet.read_table(paths[2]).num_rows == 0


def test_exporting_again_replaces_the_files(tmp_path: Path) -> None:
    export(tmp_path, results(4), {"chunks": 4})
    export(tmp_path, results(40), {"chunks": 40})
    assert json.loads((tmp_path / "summary.json").read_text()) == {"chunks": 40}
    assert parquet.read_table(tmp_path / "qa_pairs.parquet").num_rows == 60


@pytest.mark.usefixtures("small_batches")
def test_results_that_fail_leave_the_older_files(tmp_path: Path) -> None:
    export(tmp_path, results(4), {"chunks": 4})
    before = contents(tmp_path)

    def broken() -> Iterator[tuple[Chunk, Outcome]]:
        yield from results(40)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, broken(), {"chunks": 40})
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("room", [0, 100, 5_000, 40_000])
def test_a_full_disk_leaves_the_older_files(tmp_path: Path, room: int) -> None:
    export(tmp_path, results(4), {"chunks": 4})
    before = contents(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(RunDirectoryError, match="cannot take the exports") as error:
            export(tmp_path, results(2_000), {"chunks": 2_000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.exit_code == ExitCode.TRY_AGAIN
    assert contents(tmp_path) == before


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="gone"):
        export(tmp_path / "gone", results(1), {})
