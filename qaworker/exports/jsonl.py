"""Pairs as JSON lines: UTF-8, one object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import BinaryIO

from qaworker.exports.rows import Row


class JsonlWriter:
    """Writes rows to a stream, which stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row in rows:
            line = json.dumps(row._asdict(), ensure_ascii=False)
            self._stream.write(f"{line}\n".encode())

    def close(self) -> None:
        """Nothing follows the last row."""
