from __future__ import annotations

import codecs
import csv
import io

import pytest

from qaworker.exports.rows import Row
from qaworker.exports.spreadsheet import CsvWriter


def row(question: str) -> Row:
    return Row(question, "a", "fact", "c", "d", "custom", 3, "easy", "e", "en")


def written(question: str) -> bytes:
    stream = io.BytesIO()
    writer = CsvWriter(stream)
    writer.write([row(question)])
    writer.close()
    return stream.getvalue()


def read(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize(
    "text",
    ['What is "Kobe", then?', "line one\nline two\r\nline three", "「神戸」とは何か。", "𠮷野家"],
)
def test_cells_come_back_as_they_were(text: str) -> None:
    header, cells = read(written(text))
    assert header == list(Row._fields)
    assert cells == [str(cell) for cell in row(text)]


def test_the_file_says_that_it_is_utf8_and_once() -> None:
    content = written("?")
    assert content.startswith(codecs.BOM_UTF8)
    assert content.count(codecs.BOM_UTF8) == 1


@pytest.mark.parametrize(
    "text",
    [
        "=HYPERLINK(1)",
        "+1",
        "-1",
        "@SUM(1)",
        "\t=1",
        "\r=1",
        "＝合計(1)",
        "＋1",
        "－1",
        "＠合計",
    ],
)
def test_a_cell_that_looks_like_a_formula_is_text(text: str) -> None:
    assert read(written(text))[1][0] == f"'{text}"


@pytest.mark.parametrize("text", ["a=b", "1-2", "神戸＝港", "'quoted'"])
def test_other_cells_are_left_alone(text: str) -> None:
    assert read(written(text))[1][0] == text
