"""Requests are read as strictly as OpenAI reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qaworker.simulator.replies import Refused
from qaworker.simulator.requests import parse

Json = dict[str, Any]

PAIR: Json = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "chunk_id": {"type": "string"}},
    "required": ["question", "chunk_id"],
    "additionalProperties": False,
}
SCHEMA: Json = {
    "type": "object",
    "properties": {"pairs": {"type": "array", "items": PAIR}},
    "required": ["pairs"],
    "additionalProperties": False,
}
REQUEST: Json = {
    "model": "gpt-5-mini",
    "messages": [{"role": "system", "content": "Ask."}, {"role": "user", "content": "霧が出た。"}],
    "max_completion_tokens": 500,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "pairs", "strict": True, "schema": SCHEMA},
    },
}


def with_schema(schema: Json) -> Json:
    described = {"name": "pairs", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def test_reads_a_request() -> None:
    call = parse(json.dumps(REQUEST).encode())
    assert (call.model, call.prompt, call.cap, call.wants_chunk_id) == (
        "gpt-5-mini", "霧が出た。", 500, True,
    )  # fmt: skip
    assert call.prompt_tokens == 1 + 4


def test_finds_the_pair_behind_a_reference() -> None:
    schema = {
        **SCHEMA,
        "properties": {"pairs": {"type": "array", "items": {"$ref": "#/$defs/Pair"}}},
        "$defs": {"Pair": PAIR},
    }
    assert parse(json.dumps(REQUEST | with_schema(schema)).encode()).wants_chunk_id


@pytest.mark.parametrize("without", ["max_completion_tokens", "response_format"])
def test_optional_parts_may_be_absent(without: str) -> None:
    request = {name: value for name, value in REQUEST.items() if name != without}
    assert parse(json.dumps(request).encode()).model == "gpt-5-mini"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model parameter"),
        ({"messages": []}, "not empty"),
        ({"messages": [{"role": "user", "content": None}]}, "must have text"),
        ({"messages": ["hello"]}, "must have text"),
        ({"max_completion_tokens": 0}, "at least 1"),
        ({"stream": True}, "'stream'"),
        ({"temperature": 0.3}, "'temperature'"),
        ({"max_tokens": 10}, "'max_completion_tokens'"),
        ({"model": "gpt-4o-mini", "reasoning_effort": "low"}, "reasoning_effort"),
        ({"response_format": {"type": "json_object"}}, "'json_schema' alone"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "json_schema.schema"),
        (with_schema({**SCHEMA, "additionalProperties": True}), r"context=\(\), 'additional"),
        (
            with_schema({**SCHEMA, "properties": {"pairs": {"items": {**PAIR, "required": []}}}}),
            r"context=\(\)\.pairs\.items, 'required'",
        ),
    ],
)
def test_refuses_what_openai_would(changes: Json, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        parse(json.dumps(REQUEST | changes).encode())
    assert refused.value.reply.status == 400


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff"])
def test_refuses_a_body_that_is_no_json_object(body: bytes) -> None:
    with pytest.raises(Refused, match="JSON"):
        parse(body)
