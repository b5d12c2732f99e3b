from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structlog.testing import capture_logs

from qaworker.corpus import jsons, tables
from qaworker.corpus.reading import Reader, Source
from qaworker.errors import InputError
from qaworker.models import Document

EN = 'The tide turns, "twice" a day.\nBoats wait.'
JA = "潮は一日に二度、満ち引きする。\n「船」は待つ。"
ROWS = [
    {"title": "Tides", "Combined_Text": EN, "id": "a-1"},
    {"title": "潮汐", "Combined_Text": JA, "id": "b-2"},
]


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    def quoted(value: object) -> str:
        return '"' + str(value).replace('"', '""') + '"'

    lines = [",".join(rows[0])] + [",".join(map(quoted, row.values())) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def json_lines_bytes(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def json_bytes(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, ensure_ascii=False, indent=1).encode()


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


WRITERS = {
    ".csv": csv_bytes,
    ".jsonl": json_lines_bytes,
    ".ndjson": json_lines_bytes,
    ".json": json_bytes,
    ".parquet": parquet_bytes,
}
Write = Callable[[str, bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return to


def read(path: Path, **options: Any) -> list[Document]:
    return list(Reader(Source(path=path, **options)))


def failure(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("ending", WRITERS)
def test_every_format_gives_the_same_documents(write: Write, ending: str, gz: str) -> None:
    path = write(f"news{ending}{gz}", WRITERS[ending](ROWS))
    assert read(path) == [
        Document(doc_id="news-1", text=EN, language="en"),
        Document(doc_id="news-2", text=JA, language="ja"),
    ]
    assert [document.doc_id for document in read(path, id_column="id")] == ["a-1", "b-2"]


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("ending", [".txt", ".md"])
@pytest.mark.parametrize("text", [EN, JA])
def test_a_text_file_is_one_document(write: Write, ending: str, gz: str, text: str) -> None:
    [document] = read(write(f"guide{ending}{gz}", text.encode()))
    assert (document.doc_id, document.text) == ("guide", text)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".json", ".txt"])
def test_a_byte_order_mark_is_no_part_of_the_text(write: Write, ending: str) -> None:
    data = WRITERS.get(ending, lambda _: JA.encode())([{"text": JA}])
    assert read(write(f"a{ending}", b"\xef\xbb\xbf" + data))[0].text == JA


def test_a_directory_is_read_in_the_order_of_its_names(write: Write, tmp_path: Path) -> None:
    write("b.csv", csv_bytes(ROWS))
    write("a/b.jsonl.gz", json_lines_bytes(ROWS[:1]))
    write("a/deep/guide.md", JA.encode())
    write(".hidden/x.txt", b"no")
    write("a/.x.txt", b"no")
    write("a/picture.png", b"\x89PNG\0")
    ids = [document.doc_id for document in read(tmp_path)]
    assert ids == ["a/b.jsonl.gz-1", "a/deep/guide.md", "b.csv-1", "b.csv-2"]


@pytest.mark.parametrize("name", ["Combined_Text", "text", "content", "body"])
@pytest.mark.parametrize("ending", WRITERS)
def test_the_usual_text_columns_are_found(write: Write, ending: str, name: str) -> None:
    assert read(write(f"a{ending}", WRITERS[ending]([{"n": 1, name: JA}])))[0].text == JA


@pytest.mark.parametrize("ending", WRITERS)
def test_named_columns_win(write: Write, ending: str) -> None:
    rows = [{"text": "no", "id": "no", "本文": JA, "番号": "潮"}]
    path = write(f"a{ending}", WRITERS[ending](rows))
    assert read(path, text_column="本文", id_column="番号", language="ja") == [
        Document(doc_id="潮", text=JA, language="ja")
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".json"])
def test_json_may_hold_texts_alone(write: Write, ending: str) -> None:
    data = f'"{"a " * 9}"\n"潮"' if ending == ".jsonl" else '["a a", "潮"]'
    assert [document.text.strip()[-1] for document in read(write(f"a{ending}", data.encode()))] == [
        "a",
        "潮",
    ]


@pytest.mark.parametrize("ending", WRITERS)
def test_reading_stops_at_max_docs_and_starts_anew(write: Write, ending: str) -> None:
    reader = Reader(Source(path=write(f"a{ending}", WRITERS[ending](ROWS)), max_docs=1))
    assert [document.text for document in reader] == [EN]
    assert [document.text for document in reader] == [EN]


def test_what_stands_behind_max_docs_does_no_harm(write: Write) -> None:
    assert len(read(write("a.jsonl", b'"one"\n{broken\n'), max_docs=1)) == 1


@pytest.mark.parametrize("ending", WRITERS)
def test_a_missing_column_is_named_with_those_there_are(write: Write, ending: str) -> None:
    path = write(f"a{ending}", WRITERS[ending]([{"headline": "x", "本文": JA}]))
    assert "no column for the text (it has headline, 本文): name it with --text-column" in failure(
        path
    )
    assert "no column 'Body' (it has headline, 本文): correct --text-column" in failure(
        path, text_column="Body"
    )
    assert "correct --id-column" in failure(path, text_column="本文", id_column="id")


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_columns_that_no_comma_separates_are_told(write: Write, separator: str, name: str) -> None:
    path = write("a.csv", f"題名{separator}text\n1{separator}x\n".encode())
    assert f"has {name} between its columns: use commas" in failure(path)


CP932, EUC_JP, LATIN = JA.encode("cp932"), JA.encode("euc-jp"), "café crème".encode("latin-1")
BAD_ROWS = {
    "csv-short": (".csv", b"text,n\nx\n", "line 2: has 1 fields where the header has 2"),
    "csv-long": (".csv", b'text,n\n\n"a\nb",1,2\n', "line 3: has 3 fields"),
    "csv-quote": (".csv", b'text\n"a"b\n', "line 2: is not CSV"),
    "csv-empty": (".csv", b"text,n\n \xe3\x80\x80,1\n", "line 2: the text is empty"),
    "csv-cp932": (".csv", b"text\n" + CP932.replace(b"\n", b""), "iconv -f CP932 -t UTF-8 a.csv"),
    "jsonl-broken": (".jsonl", b'\n{"text": "a"\n', "line 2: is not JSON (Expecting ','"),
    "jsonl-deep": (".jsonl", b"[" * 200_000 + b"\n", "line 1: is not JSON"),
    "jsonl-list": (".jsonl", b"[1]\n", "line 1: is neither an object nor a text"),
    "jsonl-number": (".jsonl", b'{"text": 5}\n', "line 1: the text is a int, no text"),
    "jsonl-null": (".jsonl", b'{"text": null}\n', "line 1: the text is missing"),
    "jsonl-column": (".jsonl", b'{"x": "a"}\n', "line 1: no column for the text (it has x)"),
    "jsonl-euc": (".jsonl", b'{"text": "' + EUC_JP.replace(b"\n", b"") + b'"}\n', "iconv -f EUC-JP"),
    "jsonl-surrogate": (".jsonl", b'{"text": "\\ud800"}\n', "half a surrogate pair"),
    "jsonl-nul": (".jsonl", b'{"text": "a\\u0000"}\n', "has a NUL character"),
    "json-null": (".json", b'[\n\n{"text": null}]', "line 3: the text is missing"),
    "txt-empty": (".txt", b"", "line 1: the text is empty"),
    "txt-latin": (".txt", LATIN, "is not UTF-8: convert the file with `iconv -f WINDOWS-1252"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_ends_the_reading_or_is_skipped(write: Write, tmp_path: Path, case: str) -> None:
    ending, data, words = BAD_ROWS[case]
    path = write(f"a{ending}", data)
    message = failure(path)
    assert words in message
    assert message.endswith("; or leave bad rows out with --skip-bad-rows")
    assert words in failure(path, skip_bad_rows=True)

    write("b.txt", EN.encode())
    reader = Reader(Source(path=tmp_path, skip_bad_rows=True))
    assert [document.doc_id for document in reader] == ["b.txt"]
    assert reader.skipped == 1


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_good_rows_around_a_bad_one_are_read(write: Write, ending: str) -> None:
    bad = {".csv": b'"x"y,z,1\n', ".jsonl": b'{"Combined_Text": \n'}[ending]
    data = WRITERS[ending](ROWS)
    again = data.split(b"\n", 1)[1] if ending == ".csv" else data
    reader = Reader(Source(path=write(f"a{ending}", data + bad + again), skip_bad_rows=True))
    assert [document.text for document in reader] == [EN, JA, EN, JA]
    assert reader.skipped == 1


def test_without_a_good_row_the_first_problem_is_told(write: Write) -> None:
    path = write("a.jsonl", b"no\n" * 30)
    message = failure(path, skip_bad_rows=True)
    assert message.startswith(f"{path}: line 1: is not JSON")
    assert message.endswith("(all 30 rows are bad)")


@pytest.mark.parametrize("ids", [["x", "x"], [7, "7"], ["ok", " "], ["ok", None]])
def test_ids_are_given_and_unique(write: Write, ids: list[Any]) -> None:
    path = write("a.jsonl", json_lines_bytes([{"text": "a", "id": one} for one in ids]))
    assert "line 2: the id" in failure(path, id_column="id")
    assert len(read(path, id_column="id", skip_bad_rows=True)) == 1


WHOLE_FILES = {
    "a.csv": (b"", "is empty"),
    "b.csv": (b"text\n", "has no rows"),
    "c.csv": (b'text\n"never closed\nx\n', "line 2: a field begins with a quote"),
    "d.csv": (b"\x89PNG\0\0", "is binary, not text"),
    "e.csv": ("text\n潮".encode("utf-16"), "is UTF-16, not UTF-8"),
    "f.csv": (gzip.compress(b"text\n"), "is a gzip file: rename it to f.csv.gz"),
    "a.txt": (b"a\0b", "is binary, not text"),
    "a.json": (b'{"text": "a"}', "line 1: is not a list"),
    "b.json": (b'["a",\n "b"', "line 2: expected a comma or the end of the list"),
    "c.json": (b'["a",\n {"text": \n', "line 3: is not JSON (Expecting value)"),
    "d.json": (b'["a"] "b"', "there is more behind the list"),
    "e.json": (b'["a", tru]', "line 1: is not JSON"),
    "f.json": (b"[]", "has no rows"),
    "g.json": (b"[" * 200_000, "nested too deeply"),
    "h.json": (b'["open' + b"x" * 70_000_000, "a value is longer than 64 MiB"),
    "a.jsonl": (b'"' + b"x" * 70_000_000, "line 1: is longer than 64 MiB"),
    "a.parquet": (b"PAR1 no", "is not Parquet"),
    "b.parquet": (b"", "is empty"),
    "a.docx": (b"x", "unknown kind of file: its name must end in .csv"),
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_an_unreadable_file_always_ends_the_reading(write: Write, name: str) -> None:
    data, words = WHOLE_FILES[name]
    path = write(name, data)
    assert words in failure(path)
    assert words in failure(path, skip_bad_rows=True)


@pytest.mark.parametrize("ending", [*WRITERS, ".txt"])
def test_a_truncated_gzip_ends_the_reading(tmp_path: Path, ending: str) -> None:
    rows = [{"text": f"{number} {number**9} 潮"} for number in range(3000)]
    data = gzip.compress(WRITERS.get(ending, json_bytes)(rows))
    path = tmp_path / f"a{ending}.gz"
    path.write_bytes(data[: len(data) * 2 // 3])
    assert "the gzip file is cut off" in failure(path, skip_bad_rows=True)
    path.write_bytes(data[:-8] + b"\0" * 8)
    assert "the gzip file is damaged" in failure(path, skip_bad_rows=True)


def test_a_file_that_is_no_gzip_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(b"text\nx\n")
    assert "is not a gzip file" in failure(path)


def test_missing_files_and_empty_directories(tmp_path: Path) -> None:
    assert "no such file or directory" in failure(tmp_path / "a.csv")
    assert "nothing to read" in failure(tmp_path)


def test_a_large_csv_field_is_read(write: Write) -> None:
    assert len(read(write("a.csv", b"text\n" + b"x" * 300_000))[0].text) == 300_000


@pytest.mark.parametrize("step", [1, 2, 3, 7, 64])
def test_json_is_found_wherever_the_stream_was_cut(
    write: Write, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(jsons, "_READ_AT_ONCE", step)
    values = [
        {"text": 'tide\\ "x" \n\u2028 é 👩', "n": [1.5e-3, True, None, {"a": [-12]}]},
        "潮",
        {"text": "z", "n": 123456789012345678901234567890},
    ] * 3
    for indent in (None, 3):
        path = write("a.json", json.dumps(values, indent=indent).encode())
        assert [document.text for document in read(path)] == [
            value["text"] if isinstance(value, dict) else value for value in values
        ]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_number_that_was_cut_is_one_bad_row(
    write: Write, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(jsons, "_READ_AT_ONCE", step)
    reader = Reader(Source(path=write("a.json", '[1234567, "潮"]'.encode()), skip_bad_rows=True))
    assert [document.text for document in reader] == ["潮"]
    assert reader.skipped == 1


def test_only_wanted_columns_of_parquet_are_read(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = pq.ParquetFile.iter_batches

    def spy(self: Any, *args: Any, **options: Any) -> Any:
        asked.append(options["columns"])
        return real(self, *args, **options)

    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spy)
    path = write("a.parquet", parquet_bytes([{**row, "n": 1} for row in ROWS]))
    assert [document.text for document in read(path)] == [EN, JA]
    assert asked == [["Combined_Text"]]
    assert [document.doc_id for document in read(path, id_column="id")] == ["a-1", "b-2"]
    assert asked[1:] == [["Combined_Text", "id"]]


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "scan.PDF", "sub/b.pdf", "sub/Makefile", ".hidden.pdf"):
        (tmp_path / name).write_text(EN)
    with capture_logs() as logged:
        assert len(list(Reader(Source(path=tmp_path)))) == 1
        assert len(list(Reader(Source(path=tmp_path / "a.txt")))) == 1
    assert [(one["event"], one["files"], one["endings"]) for one in logged] == [
        ("files_left_out", 3, [".pdf", "(none)"])
    ]
