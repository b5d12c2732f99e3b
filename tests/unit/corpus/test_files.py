from __future__ import annotations

import os
from pathlib import Path

import pytest

from qaworker.corpus.datasets import PRESETS, locate
from qaworker.corpus.files import fingerprint
from qaworker.errors import InputError


@pytest.mark.parametrize("name", ["a.txt", "b.csv"])
@pytest.mark.parametrize("text", ["The tide.", "潮。"])
def test_a_fingerprint_follows_the_bytes(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    before = fingerprint(path)
    assert fingerprint(path) == before
    path.write_text(text + "x")
    assert fingerprint(path) != before


def test_a_fingerprint_of_a_directory_follows_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.txt").write_text("c")
    seen = {fingerprint(tmp_path)}
    (tmp_path / "ignored.png").write_text("x")
    assert {fingerprint(tmp_path)} == seen
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("bc")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 3


def test_a_fingerprint_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        fingerprint(tmp_path / "a.csv")


@pytest.mark.parametrize("place", ["", "部/"])
def test_a_name_that_is_not_utf_8_is_told_readably(tmp_path: Path, place: str) -> None:
    name = os.fsdecode(place.encode("cp932") + "日本.md".encode("cp932"))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("潮。")
    told = r"\\x93\\xfa\\x96{\.md: its name is not UTF-8: rename it"
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=told):
            fingerprint(path)
    (tmp_path / name).rename((tmp_path / name).with_suffix(".png"))
    (tmp_path / "a.txt").write_text("潮。")
    assert fingerprint(tmp_path)


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        fingerprint(tmp_path / ("a" * 300 + ".csv"))


@pytest.mark.parametrize(
    ("name", "size", "pairs", "language"),
    [
        ("cc_news", 300, 5, "en"),
        ("japanese_text", 200, 2, "ja"),
        ("wikipedia_ja", 250, 3, "ja"),
        ("livedoor", 200, 4, "ja"),
    ],
)
def test_presets(name: str, size: int, pairs: int, language: str) -> None:
    known = PRESETS[name]
    assert (known.chunk_size, known.pairs_per_chunk, known.language) == (size, pairs, language)
    assert known.text_column == "Combined_Text"


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet", ".jsonl"])
def test_a_dataset_is_found_by_its_name(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / f"preprocessed_{name}{ending}"
    path.touch()
    assert locate(name, tmp_path) == path


def test_a_dataset_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        locate("cc_news", tmp_path)
    assert f"{tmp_path}/preprocessed_cc_news.csv: no such file" in str(caught.value)
    assert ".csv.gz" in str(caught.value)
    assert "QAWORKER_DATA_DIR" in str(caught.value)
