from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from qaworker.corpus.tokens import counter
from qaworker.llm.counting import Counter, input_tokens, most_input_tokens
from qaworker.llm.request import request_body
from qaworker.models import Chunk, GenerationConfig

FORM = 11


def counted(chunks: Sequence[Chunk], model: str, count: Counter) -> int:
    """The tokens of all that is sent."""
    body = request_body(chunks, GenerationConfig(), model)
    schema = json.dumps(body["response_format"]["json_schema"], separators=(",", ":"))
    return FORM + sum(count(text) for text in [*(m["content"] for m in body["messages"]), schema])


@pytest.mark.parametrize("number", [1, 2, 5])
def test_all_of_the_request_is_counted(chunk: Chunk, number: int) -> None:
    chunks = [chunk] * number
    assert input_tokens(chunks, len) == counted(chunks, "gpt-5-mini", len)


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
    assert len(counted) == 3 + 3


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-4"])
@pytest.mark.parametrize("number", [1, 5])
@pytest.mark.parametrize("text", ["The tide turned.", "\n(潮が変わった。", "  x\n\n", "</chunk>"])
def test_what_a_chunk_says_of_itself_is_as_good_as_counting(
    model: str, number: int, text: str
) -> None:
    count = counter(model)
    chunk = Chunk(chunk_id="c", text=text, language="en", pairs_wanted=3, tokens=count(text))
    chunks = [chunk] * number
    assert abs(input_tokens(chunks, count) - counted(chunks, model, count)) <= number


def test_the_most_is_never_less() -> None:
    assert [most_input_tokens(tokens) for tokens in (0, 1, 1000)] == [0, 2, 1150]
