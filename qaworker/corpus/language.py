"""Which of the two languages a text is in, by its script."""

from __future__ import annotations

import re
from typing import Final

from qaworker.models import Language

_KANA: Final = re.compile(r"[\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9d]")
_KANJI: Final = re.compile(r"[\u3005\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LATIN: Final = re.compile(r"[A-Za-z]")

# Enough to tell; a book is not read to its end for it.
_SAMPLE: Final = 10_000

# A Japanese manual full of commands stays above this, an English text that quotes names below.
_LEAST_JAPANESE_SHARE: Final = 0.2


def detect(text: str) -> Language:
    """Return ``ja`` when kana and kanji are at least a fifth of the letters, else ``en``.

    There must be kana: kanji alone are as likely Chinese, for which the English instructions
    ("answer in the language of the text") are the better choice.
    """
    sample = text[:_SAMPLE]
    kana = len(_KANA.findall(sample))
    if not kana:
        return "en"
    japanese = kana + len(_KANJI.findall(sample))
    latin = len(_LATIN.findall(sample))
    return "ja" if japanese >= _LEAST_JAPANESE_SHARE * (japanese + latin) else "en"
