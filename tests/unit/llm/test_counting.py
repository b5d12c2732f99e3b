from __future__ import annotations

import json

import pytest

from qaworker.llm.counting import input_tokens, most_input_tokens
from qaworker.llm.request import request_body
from qaworker.models import Chunk, GenerationConfig

FORM = 11


@pytest.mark.parametrize("number", [1, 2, 5])
def test_all_of_the_request_is_counted(chunk: Chunk, number: int) -> None:
    chunks = [chunk] * number
    body = request_body(chunks, GenerationConfig(), "gpt-5-mini")
    schema = json.dumps(body["response_format"]["json_schema"], separators=(",", ":"))
    sent = [message["content"] for message in body["messages"]] + [schema]
    assert input_tokens(chunks, len) == FORM + sum(map(len, sent))


def test_several_chunks_pay_for_the_instructions_once(chunk: Chunk) -> None:
    together = input_tokens([chunk] * 5, len)
    assert together < 0.6 * 5 * input_tokens([chunk], len)


def test_the_instructions_are_counted_once(chunk: Chunk) -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text)

    for _ in range(3):
        input_tokens([chunk], count)
    assert len(counted) == 2 + 3


def test_the_most_is_never_less() -> None:
    assert [most_input_tokens(tokens) for tokens in (0, 1, 1000)] == [0, 2, 1150]
