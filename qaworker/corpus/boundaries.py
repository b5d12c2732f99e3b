"""Where a text may be cut: corrects what the Unicode sentence rules and the splitter get wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

# What begins with a rare character, and then looks back, is found many times faster than what would
# look back from every character.

# A line this long was wrapped by an editor, unless it ends a sentence or the next begins an item.
_WRAP: Final = re.compile(r"\n(?<=[^\n]{39}[^\s.!?:;。！？」』）…]\n)(?=\w)")

# A short line by itself, followed by sentences, is a heading (or a question and its answer): it
# belongs to what follows, and would otherwise end the chunk before.
_HEADING: Final = re.compile(
    r"(?:(?<=\n\n)|\A)[^\n]{0,60}[^\s.!;,。！、」』）…]\n\n(?=[-*・]|[^\n]*[.!?。！？])"
)

# "Mr. Smith", "J. K. Smith", "Fig. 3": the full stop ends no sentence.
_ABBREVIATION: Final = re.compile(
    r"\.(?=[ \n])(?:(?<=\b[A-Z]\.)|(?<=\b(?:Mr|Ms|Dr|St|No)\.)|(?<=\b(?:Mrs|Fig)\.)|(?<=\bProf\.))"
)

# 「はい。そうです。」と言った。 is one sentence: what stands in brackets is not cut, unless it is long.
_QUOTATION: Final = re.compile(r"[「『（][^「」『』（）\n]{1,200}[」』）]")
_UNENDED: Final = str.maketrans("。！？", "、、、")

# Larger pieces of text make the splitter slow: its work grows faster than the text.
_WINDOW: Final = 20_000
_CUTS: Final = ("\n\n", "\n", "。", ". ", " ")


def hide_false_ends(text: str) -> str:
    """``text``, as long as before, with every false end of a sentence made harmless.

    The Unicode rules (UAX #29) keep closing brackets with 。！？ as they should, but end a sentence
    at every newline, after ``Mr.`` and between 」 and と, and the splitter cuts behind a heading. Only for finding boundaries: offsets into
    the result are offsets into ``text``.
    """
    text = _HEADING.sub(lambda found: found[0][:-2] + "  ", text)
    text = _WRAP.sub(" ", text)
    text = _ABBREVIATION.sub(",", text)
    return _QUOTATION.sub(lambda found: found[0].translate(_UNENDED), text)


def windows(text: str) -> Iterator[tuple[int, int]]:
    """Cut ``text`` into spans of at most 20,000 characters, at the best boundary near the end."""
    start = 0
    while len(text) - start > _WINDOW:
        end = _window_end(text, start)
        yield start, end
        start = end
    yield start, len(text)


def _window_end(text: str, start: int) -> int:
    for mark in _CUTS:
        found = text.rfind(mark, start + _WINDOW // 2, start + _WINDOW)
        if found >= 0:
            return found + len(mark)
    return start + _WINDOW
