from __future__ import annotations

import pytest

from qaworker.corpus.language import detect
from qaworker.models import Language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The tide turns twice a day.", "en"),
        ("潮は一日に二度満ち引きする。", "ja"),
        ("コンピューター", "ja"),
        ("ﾃﾞｰﾀ", "ja"),
        ("設定ファイルは /etc/qaworker/settings.toml に置き、restart します。", "ja"),
        ("The word 侘び (wabi) is hard to translate into any other language of the world.", "en"),
        ("Numbers only: 1 2 3", "en"),
        ("潮汐每天涨落两次", "en"),
        ("", "en"),
    ],
)
def test_language_by_script(text: str, language: Language) -> None:
    assert detect(text) == language


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    assert detect("a" * 10_000 + "あ" * 100_000) == "en"
