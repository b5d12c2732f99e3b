"""Whether a quote stands in a chunk.

The check is YourBench's citation score (arXiv 2504.01833): exact after normalisation, else fuzzy.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from rapidfuzz import fuzz

LEAST_SCORE: Final = 90.0
"""Of 100: a few characters may differ (quotation marks, dashes, a hyphen at a line's end)."""
LEAST_FUZZY_CHARACTERS: Final = 20
"""A shorter quote must be exact: one changed character can change what it says."""
MOST_FUZZY_CHARACTERS: Final = 400
"""A longer quote must be exact: the search takes 0.5 ms at this length and grows with its square."""


def normalized(text: str) -> str:
    """``text`` in NFKC, case folded and without white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def stands_in(quote: str, text: str) -> bool:
    """Whether ``quote`` stands in ``text``, both of them normalized."""
    if quote in text:
        return bool(quote)
    if not LEAST_FUZZY_CHARACTERS <= len(quote) <= MOST_FUZZY_CHARACTERS:
        return False
    # partial_ratio looks for the shorter in the longer, so a quote around the chunk would match.
    if len(quote) > len(text):
        return False
    return fuzz.partial_ratio(quote, text, score_cutoff=LEAST_SCORE) > 0
