"""Reads CSV and Parquet, whose columns are the same for every row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qaworker.corpus.files import MAX_TEXT, MAX_TEXT_MB, opened, seekable
from qaworker.corpus.rows import BadRow, Columns, Row
from qaworker.errors import InputError

# Few, because a row may be a book.
_ROWS_AT_ONCE = 64


def csv_rows(path: Path, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of a CSV file whose first line names the columns.

    Raises:
        InputError: a column is missing, or a quote is never closed, which makes all rows after it
            unreadable.
    """
    # The library's limit is for the whole process, and 128 KiB unless it is raised.
    csv.field_size_limit(MAX_TEXT)
    with opened(path) as file:
        # Bytes that are not UTF-8 become surrogates, which the reader of the rows reports.
        lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(lines, strict=True)
        header, bad = _next_record(path, reader)
        if header is None:
            raise InputError(f"{path}: line 1: {bad or 'there is no header'}: name the columns")
        chosen = _choose(path, columns, header)
        places = [header.index(name) if name is not None else None for name in chosen]
        number = 0
        while True:
            line = reader.line_num + 1
            record, bad = _next_record(path, reader)
            if record is None and not bad:
                return
            if record == []:
                continue
            number += 1
            if record is None or len(record) != len(header):
                fields = f"has {len(record or ())} fields where the header has {len(header)}"
                yield BadRow(f"line {line}", f"{bad or fields}: correct or quote the line")
            else:
                values = [record[place] if place is not None else None for place in places]
                yield Row(number, f"line {line}", *values)


def _next_record(path: Path, reader: Any) -> tuple[list[str] | None, str]:
    """The next record and no problem, or None and the problem, or None at the end."""
    line = reader.line_num + 1
    try:
        return next(reader), ""
    except StopIteration:
        return None, ""
    except csv.Error as error:
        problem = str(error)
        if "unexpected end of data" in problem or "field larger" in problem:
            raise InputError(
                f"{path}: line {line}: a field begins with a quote that is not closed within"
                f" {MAX_TEXT_MB} MiB: close it"
            ) from error
        return None, f"is not CSV ({problem})"


def parquet_rows(path: Path, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of a Parquet file, of which only the wanted columns are read.

    Raises:
        InputError: a column is missing, or this is no Parquet file or a damaged one.
    """
    # Imported here because it takes 0.1 s and 40 MB, and few datasets are Parquet.
    import pyarrow as pa
    import pyarrow.parquet as pq

    with seekable(path) as file:
        try:
            table = pq.ParquetFile(file)
            chosen = _choose(path, columns, table.schema_arrow.names)
            wanted = list(dict.fromkeys(name for name in chosen if name is not None))
            number = 0
            for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    values = [record[name] if name is not None else None for name in chosen]
                    yield Row(number, f"row {number}", *values)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: is not Parquet, or is damaged ({reason}): export it again"
            ) from error


def _choose(path: Path, columns: Columns, names: Sequence[str]) -> tuple[str, str | None]:
    try:
        return columns.choose(names)
    except LookupError as error:
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if len(names) == 1 and separator in names[0]:
                raise InputError(f"{path}: has {name} between its columns: use commas") from error
        raise InputError(f"{path}: {error.args[0]}") from error
