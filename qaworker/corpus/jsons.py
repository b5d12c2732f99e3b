"""Reads JSON: a list, or one value a line; each value an object or the text itself."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from qaworker.corpus.files import MAX_TEXT, MAX_TEXT_MB, opened
from qaworker.corpus.rows import BadRow, Columns, Row
from qaworker.errors import InputError

_READ_AT_ONCE: Final = 1 << 18
_SPACE: Final = re.compile(r"[ \t\r\n]*")

# An error nearer than this to the end of what was read may only mean that more has to be read:
# no escape sequence or literal is longer.
_MAY_BE_CUT: Final = 16


def json_lines(path: Path, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of a JSON Lines file; blank lines are passed over.

    Raises:
        InputError: a line is longer than any text should be.
    """
    with opened(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape")
        number = line = 0
        while text := lines.readline(MAX_TEXT):
            line += 1
            if len(text) == MAX_TEXT:
                raise InputError(f"{path}: line {line}: is longer than {MAX_TEXT_MB} MiB: split it")
            if not text.strip():
                continue
            number += 1
            place = f"line {line}"
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                yield BadRow(place, f"is not JSON ({reason}): correct the line")
            else:
                yield _row(value, columns, number, place)


def json_list(path: Path, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of a JSON file that holds one list; the list itself is never in memory.

    Raises:
        InputError: this is no list, or its JSON is broken, after which nothing can be read.
    """
    with opened(path) as file:
        scanner = _Scanner(path, io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape"))
        if scanner.take() != "[":
            raise scanner.error("is not a list of objects or texts: write [ … ], or one value a"
                                " line in a .jsonl file")  # fmt: skip
        number = 0
        mark = ","
        if scanner.peek() == "]":
            mark = scanner.take()
        while mark == ",":
            number += 1
            scanner.peek()
            place = f"line {scanner.line}"
            yield _row(scanner.value(), columns, number, place)
            mark = scanner.take()
        if mark != "]":
            raise scanner.error("expected a comma or the end of the list: correct the file"
                                " (it may be cut off)")  # fmt: skip
        if scanner.peek():
            raise scanner.error("there is more behind the list: take it away")


class _Scanner:
    """Takes JSON values out of a stream, one at a time."""

    def __init__(self, path: Path, stream: IO[str]) -> None:
        self.line = 1
        self._path = path
        self._stream = stream
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            found = _SPACE.match(self._buffer, self._at)
            self._move(found.end() if found else self._at)
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._read()

    def take(self) -> str:
        """Like ``peek``, and goes behind it."""
        found = self.peek()
        self._move(self._at + len(found))
        return found

    def value(self) -> object:
        """The next JSON value; reads no further than needed to have all of it."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                self._move(self._at)
                if self._ended or not self._may_be_cut(error):
                    self._move(min(error.pos, len(self._buffer)))
                    raise self.error(f"is not JSON ({error.msg}): correct the file (it may be cut"
                                     " off)") from error  # fmt: skip
            except RecursionError as error:
                raise self.error("is nested too deeply: flatten it") from error
            else:
                # A number may go on in what was not read yet.
                if end < len(self._buffer) or self._ended:
                    self._move(end)
                    return value
            self._read()

    def error(self, problem: str) -> InputError:
        """An error at the present line."""
        return InputError(f"{self._path}: line {self.line}: {problem}")

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        return error.msg.startswith("Unterminated") or error.pos > len(self._buffer) - _MAY_BE_CUT

    def _move(self, to: int) -> None:
        self.line += self._buffer.count("\n", self._at, to)
        self._at = to

    def _read(self) -> None:
        left = len(self._buffer) - self._at
        if left > MAX_TEXT:
            raise self.error(f"a value is longer than {MAX_TEXT_MB} MiB: split it, or close the"
                             " quote that was left open")  # fmt: skip
        # As much again as is waiting: a long value is not decoded again for each small read.
        more = self._stream.read(max(_READ_AT_ONCE, left))
        self._ended = not more
        self._buffer = self._buffer[self._at :] + more
        self._at = 0


def _row(value: object, columns: Columns, number: int, place: str) -> Row | BadRow:
    if isinstance(value, str):
        return Row(number, place, value)
    if not isinstance(value, dict):
        return BadRow(place, "is neither an object nor a text: correct the value")
    try:
        text, doc_id = columns.choose(value)
    except LookupError as error:
        return BadRow(place, error.args[0])
    return Row(number, place, value[text], value[doc_id] if doc_id is not None else None)
