"""What every format yields, rows good and bad, and which of their columns are wanted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

TEXT_COLUMNS: Final = ("Combined_Text", "text", "content", "body")
"""Where the text is looked for when no column is named, in this order."""

# A message names no more columns than a line can hold.
_NAMED: Final = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the values are as the file has them, and not yet known to be text."""

    number: int
    """Counts the rows of a file, from 1."""
    place: str
    """Where it stands, for a message: ``line 7``."""
    text: object
    doc_id: object = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be a document, and why."""

    place: str
    problem: str


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns wanted; None for ``text`` means the usual ones, for ``doc_id`` none."""

    text: str | None = None
    doc_id: str | None = None

    def choose(self, names: Collection[str]) -> tuple[str, str | None]:
        """The columns of text and id among ``names``.

        Raises:
            LookupError: one that was named is missing, or there is no usual one for the text.
        """
        for wanted, option in (
            (self.text, "--text-column"),
            (self.doc_id, "--id-column"),
        ):
            if wanted is not None and wanted not in names:
                raise LookupError(f"no column {wanted!r} ({_listed(names)}): correct {option}")
        text = self.text or next((name for name in TEXT_COLUMNS if name in names), None)
        if text is None:
            raise LookupError(
                f"no column for the text ({_listed(names)}): name it with --text-column"
            )
        return text, self.doc_id


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_NAMED])
    return f"it has {shown}" + (", …" if len(names) > _NAMED else "")
