from __future__ import annotations

import pytest

from qaworker.llm.estimates import Estimates
from qaworker.models import Chunk, GenerationConfig, Language, Usage

CONFIG = GenerationConfig()
MODEL = "gpt-5-mini"
TEXTS: dict[Language, str] = {"en": "The tide turned.", "ja": "潮が変わった。"}


def chunk(language: Language, tokens: int = 300) -> Chunk:
    return Chunk(
        chunk_id="c", text=TEXTS[language], language=language, pairs_wanted=3, tokens=tokens
    )


def reckoned(estimates: Estimates, of: Chunk) -> int:
    return estimates.tokens([of], CONFIG, MODEL).input


@pytest.mark.parametrize("language", TEXTS)
def test_what_stands_around_a_text_is_learnt_from_what_the_provider_counted(
    language: Language,
) -> None:
    estimates = Estimates()
    estimates.learn([chunk(language)], MODEL, Usage(input=700, output=90))
    assert reckoned(estimates, chunk(language)) == 700
    assert reckoned(estimates, chunk(language, tokens=100)) == 500
    estimates.learn([chunk(language)], MODEL, Usage(input=650, output=90))
    assert reckoned(estimates, chunk(language)) == 700, "the most that was seen"


def test_one_prompt_that_was_counted_oddly_is_forgotten_in_time_and_is_of_its_model() -> None:
    estimates = Estimates()
    estimates.learn([chunk("en")], "odd", Usage(input=40_900, output=90))
    assert reckoned(estimates, chunk("en")) == reckoned(Estimates(), chunk("en"))
    estimates.learn([chunk("en")], MODEL, Usage(input=40_900, output=90))
    for _ in range(99):
        estimates.learn([chunk("en")], MODEL, Usage(input=700, output=90))
    assert reckoned(estimates, chunk("en")) == 40_900
    estimates.learn([chunk("en")], MODEL, Usage(input=700, output=90))
    assert reckoned(estimates, chunk("en")) == 700


@pytest.mark.parametrize("usage", [Usage(), Usage(output=90)])
@pytest.mark.parametrize("language", TEXTS)
def test_nothing_is_learnt_from_a_server_that_does_not_tell(
    language: Language, usage: Usage
) -> None:
    estimates = Estimates()
    estimates.learn([chunk(language)], MODEL, usage)
    assert reckoned(estimates, chunk(language)) == reckoned(Estimates(), chunk(language)) > 300
