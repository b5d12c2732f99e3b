"""Pairs as CSV that spreadsheets open as it is meant.

A byte order mark tells Excel that the file is UTF-8. A cell that a spreadsheet would take for a
formula gets a leading apostrophe (OWASP, "CSV Injection"): the text of a dataset must not run on
the machine that opens it. The other exports carry the text unchanged.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from qaworker.exports.rows import Row

# The full-width forms too: a Japanese Excel takes them for the others.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


class CsvWriter:
    """Writes rows below a line of column names to a stream, which stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._stream.write(codecs.BOM_UTF8)
        self._write([Row._fields])

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        self._write([_harmless(cell) for cell in row] for row in rows)

    def close(self) -> None:
        """Nothing follows the last row."""

    def _write(self, lines: Iterable[Iterable[str | int]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        self._stream.write(text.getvalue().encode())


def _harmless(cell: str | int) -> str | int:
    if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS):
        return f"'{cell}"
    return cell
