from __future__ import annotations

import json

import pytest

from qaworker.llm.request import TOKENS_PER_PAIR, output_cap, request_body
from qaworker.models import Chunk, GenerationConfig

CONFIG = GenerationConfig()


def test_the_static_part_comes_first(chunk: Chunk) -> None:
    first = request_body([chunk], CONFIG, "m")
    second = request_body([chunk.model_copy(update={"text": "x"})], CONFIG, "m")
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert first["messages"][0] == second["messages"][0]
    assert chunk.text in first["messages"][1]["content"]


@pytest.mark.parametrize("model", ["gpt-5-mini", "o3-mini"])
def test_reasoning_models_get_an_effort_and_no_temperature(chunk: Chunk, model: str) -> None:
    body = request_body([chunk], GenerationConfig(reasoning_effort="low"), model)
    assert body["reasoning_effort"] == "low"
    assert "temperature" not in body


def test_other_models_get_a_temperature_and_no_effort(chunk: Chunk) -> None:
    body = request_body([chunk], GenerationConfig(temperature=0.0), "gpt-4o-mini")
    assert body["temperature"] == 0.0
    assert "reasoning_effort" not in body


def test_a_repair_ends_with_what_was_wrong(chunk: Chunk) -> None:
    body = request_body([chunk], CONFIG, "m", repair="pairs.0: wrong")
    assert body["messages"][:2] == request_body([chunk], CONFIG, "m")["messages"]
    assert "pairs.0: wrong" in body["messages"][2]["content"]


def test_the_cap_follows_the_pairs_of_all_chunks(chunk: Chunk) -> None:
    one, two = (output_cap([chunk] * count, CONFIG, "m") for count in (1, 2))
    assert two - one == chunk.pairs_wanted * TOKENS_PER_PAIR[chunk.language]
    assert output_cap([chunk], CONFIG, "m", cap_factor=2) == 2 * one
    assert request_body([chunk], CONFIG, "m", cap_factor=2)["max_completion_tokens"] == 2 * one


def test_reasoning_has_an_allowance_of_its_own(chunk: Chunk) -> None:
    high = GenerationConfig(reasoning_effort="high")
    assert output_cap([chunk], high, "o3") > output_cap([chunk], CONFIG, "o3") + 10_000
    assert output_cap([chunk], high, "gpt-4o") == output_cap([chunk], CONFIG, "gpt-4o")


# The tokenizer's own import, on Python 3.11.
@pytest.mark.filterwarnings("ignore:open_binary is deprecated:DeprecationWarning")
def test_a_wordy_pair_fits_its_share_of_the_cap(chunk: Chunk, pair: dict[str, str]) -> None:
    """Answer and evidence each as long as a whole short chunk."""
    from bpe_openai import get_encoding

    wordy = {**pair, "answer": chunk.text, "evidence": chunk.text}
    written = json.dumps(wordy, ensure_ascii=False, indent=1)
    assert len(get_encoding("o200k_base").encode(written)) < TOKENS_PER_PAIR[chunk.language]
