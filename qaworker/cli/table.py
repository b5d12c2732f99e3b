"""Text for a terminal of whatever encoding, in columns also where a character takes two."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

import click

GAP = "  "


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str | int]]) -> str:
    """Aligned columns: text to the left, numbers to the right."""
    cells = [headings, *([str(cell) for cell in row] for row in rows)]
    widths = [max(width(row[column]) for row in cells) for column in range(len(headings))]
    is_number = [any(isinstance(row[column], int) for row in rows) for column in range(len(widths))]

    def padded(text: str, column: int) -> str:
        blank = " " * (widths[column] - width(text))
        return blank + text if is_number[column] else text + blank

    lines = (GAP.join(padded(text, column) for column, text in enumerate(row)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def show(text: str) -> None:
    """Print it, with ``?`` for what the terminal's encoding does not have."""
    encoding = sys.stdout.encoding or "utf-8"
    click.echo(text.encode(encoding, errors="replace").decode(encoding))


def printable(text: str) -> str:
    """A text from elsewhere on one line, without what would move the terminal's cursor."""
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"  # 全角の空白 among them
        else char.encode("unicode_escape").decode()
        for char in text
    )
