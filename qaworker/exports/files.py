"""The files of an export: written in one pass over the results, and put in place when all are whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from qaworker.errors import RunDirectoryError
from qaworker.exports import summary as summary_file
from qaworker.exports.jsonl import JsonlWriter
from qaworker.exports.parquet import ParquetWriter
from qaworker.exports.rows import Row, rows
from qaworker.exports.spreadsheet import CsvWriter
from qaworker.models import Chunk, Outcome


class PairWriter(Protocol):
    """One format; what it is given to write to stays open."""

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write what follows the last row."""


PAIR_FILES: dict[str, Callable[[BinaryIO], PairWriter]] = {
    "qa_pairs.jsonl": JsonlWriter,
    "qa_pairs.csv": CsvWriter,
    "qa_pairs.parquet": ParquetWriter,
}
SUMMARY_FILE = "summary.json"
# Rows in memory at a time, and in a Parquet row group: some 4 MB in all three formats.
_BATCH_ROWS = 1_000


def export(
    directory: Path,
    results: Iterable[tuple[Chunk, Outcome]],
    summary: Mapping[str, Any],
) -> list[Path]:
    """Write the pairs of a run and its summary; equal results give equal bytes.

    The new files replace older ones when all four are written; until then, and when something
    fails, the older ones stay.

    Args:
        directory: an existing one, where nobody else exports.
        results: chunks with their outcomes, in document order; read once, as a stream.
        summary: from :func:`qaworker.exports.summary.summarize`.

    Returns:
        The files, the summary last.

    Raises:
        RunDirectoryError: a file cannot be written.
    """
    paths = [directory / name for name in (*PAIR_FILES, SUMMARY_FILE)]
    try:
        with _replacing(paths) as streams, ExitStack() as writers:
            outputs = [
                writers.enter_context(closing(make(stream)))
                for make, stream in zip(PAIR_FILES.values(), streams[:-1], strict=True)
            ]
            pairs = rows(results)
            while batch := list(islice(pairs, _BATCH_ROWS)):
                for output in outputs:
                    output.write(batch)
            streams[-1].write(summary_file.encode(summary))
    except OSError as error:
        raise RunDirectoryError(
            f"{directory} cannot take the exports ({error.strerror or error}):"
            " free space or correct its permissions, and run the same command again"
        ) from error
    return paths


@contextmanager
def _replacing(paths: list[Path]) -> Iterator[Sequence[BinaryIO]]:
    """Streams to drafts beside ``paths`` that take their names after the block, unless it fails."""
    drafts = [path.with_name(f".{path.name}.draft") for path in paths]
    try:
        with ExitStack() as stack:
            streams = [stack.enter_context(draft.open("wb")) for draft in drafts]
            yield streams
            for stream in streams:
                stream.flush()
                os.fsync(stream.fileno())
        for draft, path in zip(drafts, paths, strict=True):
            draft.replace(path)
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)
