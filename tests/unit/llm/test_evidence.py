from __future__ import annotations

import pytest

from qaworker.llm.evidence import normalized, stands_in

EN = "The keepers of Hollin wound up the weight every four hours, in all weathers, and wrote it down."
JA = "灯台守は四時間ごとに重りを巻き上げ、どんな天気の日もその時刻を日誌に書き残していたという。"


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("wound up the weight", EN),
        ("WOUND  up\nthe weight", EN),
        ("ｗound up the weight", EN),
        ("四時間ごとに重りを巻き上げ", JA),
        ("四時間ごとに 重りを\n巻き上げ", JA),
        ("ｶﾞｲﾄﾞが 12 人いた", "案内所にはガイドが１２人いた。"),
        (EN, EN),
    ],
)
def test_a_quote_stands_in_its_text_whatever_its_width_case_and_space(
    quote: str, text: str
) -> None:
    assert stands_in(normalized(quote), normalized(text))


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("The keepers of Hollin wound up the weights every four hours", EN),
        ("The keepers of Hollin, wound up the weight - every four hours", EN),
        ("灯台守は４時間ごとに重りを巻き上げ、どんな天気の日もその時刻を", JA),
    ],
)
def test_a_few_characters_may_differ_in_a_long_quote(quote: str, text: str) -> None:
    assert stands_in(normalized(quote), normalized(text))


@pytest.mark.parametrize(
    ("quote", "text"),
    [
        ("five hours", EN),
        ("四時間半ごと", JA),
        ("The keepers slept all night and nobody wound anything up", EN),
        ("灯台守は夜のあいだずっと眠っていて誰も巻き上げなかったのである", JA),
        ("", EN),
        (" \n", JA),
        (f"Before it. {EN} And a good deal more after it, which is in no chunk.", EN),
    ],
)
def test_what_is_not_in_the_text_is_no_evidence(quote: str, text: str) -> None:
    assert not stands_in(normalized(quote), normalized(text))


@pytest.mark.parametrize("text", [EN, JA])
def test_a_very_long_quote_must_be_exact(text: str) -> None:
    long = normalized(" ".join(f"{number} {text}" for number in range(10)))
    assert stands_in(long, long)
    assert not stands_in(long, f"{long[:200]}x{long[200:]}")
