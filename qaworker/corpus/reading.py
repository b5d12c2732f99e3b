"""Reads datasets: streams the documents of a file or a directory, and judges every row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final, Literal

from qaworker import logs
from qaworker.corpus import files, language
from qaworker.corpus.jsons import json_lines, json_list
from qaworker.corpus.rows import BadRow, Columns, Row
from qaworker.corpus.tables import csv_rows, parquet_rows
from qaworker.errors import InputError
from qaworker.models import Document, Language

log = logs.get(__name__)

_ENDINGS_SHOWN: Final = 5
# What Japanese texts are in when they are not UTF-8; kana tells that the guess is right.
_JAPANESE_ENCODINGS: Final = ("CP932", "EUC-JP")


def _one_text(path: Path, _columns: Columns) -> Iterator[Row | BadRow]:
    """The whole file as one row."""
    with files.opened(path) as file:
        text = file.read(files.MAX_TEXT + 1)
    if len(text) > files.MAX_TEXT:
        raise InputError(
            f"{path}: is larger than {files.MAX_TEXT_MB} MiB: split it, one document a file"
        )
    yield Row(1, "line 1", text.decode("utf-8-sig", "surrogateescape"))


_READERS: Final[dict[str, Callable[[Path, Columns], Iterator[Row | BadRow]]]] = {
    ".csv": csv_rows,
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": json_list,
    ".parquet": parquet_rows,
    ".txt": _one_text,
    ".md": _one_text,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A dataset and how to read it; columns of None are the usual ones (``rows.TEXT_COLUMNS``)."""

    path: Path
    text_column: str | None = None
    id_column: str | None = None
    language: Literal["auto"] | Language = "auto"
    skip_bad_rows: bool = False
    max_docs: int | None = None


class Reader:
    """The documents of a source, streamed; each iteration begins anew.

    A document's id is what the id column says, else the file's name and the number of its row
    (``news-17``); in a directory the name with its path and ending (``2024/news.csv-17``). A text
    file is one document.

    Bad rows (no text, not UTF-8, an id that was there before, broken JSON or CSV in a line) end the
    reading, or are left out and counted with ``skip_bad_rows``. What makes the rest of a file
    unreadable (a missing column, a truncated gzip, an open quote, broken JSON inside a list) always
    ends it, and so does a dataset without a single good row.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.skipped = 0
        """Bad rows left out by the last iteration."""
        self._first_problem = ""
        self._seen: set[bytes] = set()

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents in the order of the files' names and rows.

        Raises:
            InputError: in one line, where and what is wrong, and what to do.
        """
        self.skipped = 0
        self._first_problem = ""
        self._seen = set()
        count = 0
        limit = self.source.max_docs
        for document in islice(self._documents(), limit):
            count += 1
            yield document
        if not count and self.skipped:
            raise InputError(f"{self._first_problem} (all {self.skipped} rows are bad)")
        if not count and limit != 0:
            raise InputError(f"{self.source.path}: has no rows: fill it")

    def _documents(self) -> Iterator[Document]:
        source = self.source
        columns = Columns(source.text_column, source.id_column)
        found = files.find(source.path)
        if left_out := files.left_out(source.path):
            endings = [name for name, _ in left_out.most_common(_ENDINGS_SHOWN)]
            log.warning("files_left_out", files=left_out.total(), endings=endings)
        for path in found:
            for row in _READERS[files.ending(path)](path, columns):
                judged = row if isinstance(row, BadRow) else self._judge(path, row)
                if isinstance(judged, Document):
                    yield judged
                else:
                    self._skip(path, judged)

    def _judge(self, path: Path, row: Row) -> Document | BadRow:
        """The document that ``row`` is, or why it is none."""
        if not isinstance(row.text, str):
            kind = "missing" if row.text is None else f"a {type(row.text).__name__}, no text"
            return BadRow(row.place, f"the text is {kind}: correct or remove the row")
        if problem := _problem(path, row.text):
            return BadRow(row.place, problem)
        if not row.text.strip():
            return BadRow(row.place, "the text is empty: fill or remove the row")
        doc_id = self._default_id(path, row.number)
        if self.source.id_column is not None and files.ending(path) not in {".txt", ".md"}:
            doc_id = "" if row.doc_id is None else str(row.doc_id).strip()
            if not doc_id:
                return BadRow(row.place, "the id is empty: fill it")
            if problem := _problem(path, doc_id):
                return BadRow(row.place, problem)
            if self._was_seen(doc_id):
                return BadRow(row.place, f"the id {doc_id!r} was there before: make ids unique")
        known = self.source.language
        spoken = language.detect(row.text) if known == "auto" else known
        return Document(doc_id=doc_id, text=row.text, language=spoken)

    def _default_id(self, path: Path, number: int) -> str:
        name = files.stem(path)
        if self.source.path.is_dir():
            name = path.relative_to(self.source.path).as_posix()
        return name if files.ending(path) in {".txt", ".md"} else f"{name}-{number}"

    def _was_seen(self, doc_id: str) -> bool:
        # 8 bytes an id, however long: two of a million ids collide once in 30 million datasets.
        key = blake2b(doc_id.encode(), digest_size=8).digest()
        if key in self._seen:
            return True
        self._seen.add(key)
        return False

    def _skip(self, path: Path, row: BadRow) -> None:
        message = " ".join(f"{path}: {row.place}: {row.problem}".split())
        if not self.source.skip_bad_rows:
            raise InputError(f"{message}; or leave bad rows out with --skip-bad-rows")
        self.skipped += 1
        self._first_problem = self._first_problem or message


def _problem(path: Path, text: str) -> str:
    """What keeps ``text`` from being text; empty when nothing does."""
    if "\0" in text:
        return "has a NUL character: remove it"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if not "\udc80" <= text[error.start] <= "\udcff":
            return "has half a surrogate pair (\\ud800 to \\udfff): correct the escape"
        encoding = _guess_encoding(text.encode("utf-8", "surrogateescape"))
        return f"is not UTF-8: convert the file with `iconv -f {encoding} -t UTF-8 {path.name}`"
    return ""


def _guess_encoding(raw: bytes) -> str:
    for name in _JAPANESE_ENCODINGS:
        try:
            text = raw.decode(name)
        except UnicodeDecodeError:
            continue
        if any("\u3041" <= character <= "\u30ff" for character in text):
            return name
    return "WINDOWS-1252"
