from __future__ import annotations

import json
from typing import Any

import pytest

from qaworker.errors import AnswerInvalid
from qaworker.llm.schema import AnsweredPair, parse_pairs, response_format
from qaworker.models import QAPair


def item_of(chunk_count: int) -> dict[str, Any]:
    item: dict[str, Any] = response_format(chunk_count)["json_schema"]["schema"]["properties"][
        "pairs"
    ]["items"]
    return item


def test_one_chunk_is_not_asked_for_ids() -> None:
    assert set(item_of(1)["properties"]) == set(QAPair.model_fields)


def test_a_shared_prompt_asks_for_one_of_its_ids() -> None:
    item = item_of(3)
    assert item["properties"]["chunk_id"] == {"type": "string", "enum": ["c1", "c2", "c3"]}
    assert set(item["properties"]) == set(AnsweredPair.model_fields)


@pytest.mark.parametrize("chunk_count", [1, 5])
def test_the_schema_is_strict(chunk_count: int) -> None:
    root = response_format(chunk_count)["json_schema"]
    assert root["strict"] is True
    for part in (root["schema"], item_of(chunk_count)):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])


def test_the_schema_is_built_once() -> None:
    assert response_format(2) is response_format(2)


@pytest.mark.parametrize(
    "form",
    ["{}", "```json\n{}\n```", "```\n{}\n```", "  \n{}\n", "\n```JSON\n{}```\n"],
    ids=["bare", "json fence", "fence", "padded", "tight fence"],
)
def test_an_answer_is_read_bare_or_fenced(pair: dict[str, str], form: str) -> None:
    content = form.replace("{}", json.dumps({"pairs": [pair]}, ensure_ascii=False))
    assert parse_pairs(content) == [AnsweredPair.model_validate(pair)]


def test_letter_case_and_unknown_fields_are_forgiven(pair: dict[str, str]) -> None:
    loose = {**pair, "question_type": "Fact", "difficulty": " EASY ", "confidence": 0.9}
    assert parse_pairs(json.dumps({"pairs": [loose], "note": ""})) == parse_pairs(
        json.dumps({"pairs": [pair]})
    )


def test_a_fence_inside_a_text_is_left_alone(pair: dict[str, str]) -> None:
    fenced = {**pair, "answer": "```sh\nls\n```"}
    assert parse_pairs(json.dumps({"pairs": [fenced]}))[0].answer == fenced["answer"]


@pytest.mark.parametrize(
    "change",
    [{"question_type": "riddle"}, {"difficulty": None}, {"evidence": 7}, {"answer": None}],
)
def test_a_wrong_value_is_invalid_and_named_but_not_quoted(
    pair: dict[str, str], change: dict[str, object]
) -> None:
    with pytest.raises(AnswerInvalid) as caught:
        parse_pairs(json.dumps({"pairs": [{**pair, **change}]}))
    assert f"pairs.0.{next(iter(change))}" in str(caught.value)
    assert pair["question"] not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "I am sorry.",
        "[]",
        "null",
        '{"pairs": [',
        '{"pairs": {}}',
        '{"pairs": ["\\ud800"]}',
        "\ud800",
    ],
)
def test_what_is_not_the_json_asked_for_is_invalid(content: str) -> None:
    with pytest.raises(AnswerInvalid):
        parse_pairs(content)
