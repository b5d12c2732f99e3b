from __future__ import annotations

from typing import Any

import pytest

from qaworker.engine.batches import parse_batch, parse_chunk, parse_config
from qaworker.errors import MessageInvalid
from qaworker.models import GenerationConfig, Language
from tests.unit.engine.fakes import TEXTS, batch, chunk


def given(**fields: Any) -> dict[str, Any]:
    return {"chunk_id": "c-1", "text": TEXTS["en"], **fields}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_what_a_chunk_does_not_say_comes_from_the_configuration(language: Language) -> None:
    config = GenerationConfig(pairs_per_chunk=7, dataset_type="cc_news")
    parsed = parse_chunk(given(text=TEXTS[language]), config)
    assert (parsed.language, parsed.pairs_wanted, parsed.dataset_type) == (language, 7, "cc_news")


def test_what_a_chunk_says_of_itself_wins() -> None:
    config = GenerationConfig(pairs_per_chunk=7, language="en", dataset_type="cc_news")
    parsed = parse_chunk(given(language="ja", pairs_wanted=2, dataset_type="wikipedia_ja"), config)
    assert (parsed.language, parsed.pairs_wanted, parsed.dataset_type) == ("ja", 2, "wikipedia_ja")


def test_a_configured_language_is_not_detected() -> None:
    assert parse_chunk(given(text=TEXTS["ja"]), GenerationConfig(language="en")).language == "en"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"chunk_id": "c-1"}, "chunk c-1: text: Field required"),
        ({"text": "x"}, r"chunk \?: chunk_id: Field required"),
        (given(text=""), "chunk c-1: text: .* at least 1 character"),
        (given(txet="x"), "chunk c-1: txet: Extra inputs are not permitted"),
        (given(pairs_wanted=0), "chunk c-1: pairs_wanted: .* greater than or equal to 1"),
        (given(text=7), "chunk c-1: text: Input should be a valid string"),
        (given(language="fr"), "chunk c-1: language: Input should be 'en' or 'ja'"),
        ("text", "a chunk is a dictionary, not str"),
    ],
)
def test_a_chunk_of_the_wrong_shape_is_refused_by_name(data: Any, message: str) -> None:
    with pytest.raises(MessageInvalid, match=message) as caught:
        parse_chunk(data, GenerationConfig())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pairs": 3}, "config.pairs: Extra inputs are not permitted"),
        ({"batch_chunks": 6}, "config.batch_chunks: .* less than or equal to 5"),
        ({"language": "fr"}, "config.language: Input should be"),
        ([], "config.Input should be"),
    ],
)
def test_a_configuration_of_the_wrong_shape_is_refused_by_name(config: Any, message: str) -> None:
    with pytest.raises(MessageInvalid, match=message):
        parse_config(config)


@pytest.mark.parametrize("config", [None, {}, GenerationConfig()])
def test_no_configuration_is_the_default_one(config: Any) -> None:
    assert parse_config(config) == GenerationConfig()


@pytest.mark.parametrize(
    ("chunks", "model", "message"),
    [
        ([], "gpt-5-mini", "chunks: a list with at least one chunk"),
        ("text", "gpt-5-mini", "chunks: a list"),
        (given(), "gpt-5-mini", "chunks: a list"),
        ([given()], "", "model: the name"),
        ([given()], 7, "model: the name"),
    ],
)
def test_what_is_no_batch_is_refused(chunks: Any, model: Any, message: str) -> None:
    with pytest.raises(MessageInvalid, match=message):
        parse_batch(chunks, None, model)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_an_error_never_quotes_the_text(language: Language) -> None:
    with pytest.raises(MessageInvalid) as caught:
        parse_batch([given(text=TEXTS[language], start="x")], None, "gpt-5-mini")
    assert TEXTS[language][:8] not in str(caught.value)


def test_chunks_of_equal_text_share_a_digest_and_the_first_stands_for_them() -> None:
    same = chunk(1).model_copy(update={"chunk_id": "again"})
    made = batch(chunk(1), chunk(2), same)
    assert made.digests[0] == made.digests[2] != made.digests[1]
    assert {c.chunk_id for c in made.by_digest().values()} == {"en-1", "en-2"}
