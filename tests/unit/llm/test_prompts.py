from __future__ import annotations

from hashlib import sha256

import pytest

from qaworker.llm import prompts
from qaworker.models import Chunk, Language


def test_changed_templates_need_a_new_version() -> None:
    wording = [
        prompts.system_message("en"),
        prompts.system_message("ja"),
        prompts.repair_message("en", "X"),
        prompts.repair_message("ja", "X"),
    ]
    # Both change together: raise PROMPT_VERSION, then put the new digest here.
    assert (prompts.PROMPT_VERSION, sha256("\0".join(wording).encode()).hexdigest()[:16]) == (
        "1",
        "7f62af054c72a74a",
    )


def test_the_system_message_is_short_and_names_every_field(language: Language) -> None:
    message = prompts.system_message(language)
    for field in ("question", "answer", "question_type", "difficulty", "evidence", "chunk_id"):
        assert f"- {field}" in message
    assert len(message) < 1300


def test_one_chunk_stands_in_a_block_without_id(chunk: Chunk) -> None:
    assert prompts.user_message([chunk]) == f'<chunk pairs="3">\n{chunk.text}\n</chunk>'


def test_chunks_that_share_a_prompt_have_short_local_ids(chunk: Chunk) -> None:
    other = chunk.model_copy(update={"text": "second", "pairs_wanted": 2})
    assert prompts.user_message([chunk, other]) == (
        f'<chunk id="c1" pairs="3">\n{chunk.text}\n</chunk>\n'
        '<chunk id="c2" pairs="2">\nsecond\n</chunk>'
    )


@pytest.mark.parametrize("problem", ["pairs.0.difficulty: wrong", "{braces}"])
def test_the_repair_message_says_what_was_wrong(language: Language, problem: str) -> None:
    assert problem in prompts.repair_message(language, problem)
