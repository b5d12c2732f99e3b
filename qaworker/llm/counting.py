"""How many tokens a prompt has, as the provider counts it, before it is sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final

from qaworker.llm import prompts
from qaworker.llm.schema import response_format
from qaworker.models import Chunk, Language

# Two messages of 3 tokens and their role each, and 3 that begin the answer. Source: "How to count
# tokens with tiktoken" in OpenAI's cookbook.
_TOKENS_OF_FORM: Final = 11
# The counting of the schema is not published, and other servers count with another vocabulary.
_MARGIN: Final = 1.15

Counter = Callable[[str], int]


def input_tokens(chunks: Sequence[Chunk], count: Counter) -> int:
    """The input of the first call for ``chunks``, which share a prompt: instructions, text, schema.

    Chunks that bring their own count are not counted again, which would take minutes for a million;
    where a text meets the words around it, that is one token more or less.

    Args:
        chunks: as in :func:`qaworker.llm.request.request_body`.
        count: the tokens of a text, in the model's vocabulary; the same function every time.
    """
    static = _static_tokens(chunks[0].language, len(chunks), count)
    around = _tokens_around(tuple(chunk.pairs_wanted for chunk in chunks), count)
    return static + around + sum(chunk.tokens or count(chunk.text) for chunk in chunks)


def most_input_tokens(tokens: int) -> int:
    """What the provider may count where :func:`input_tokens` says ``tokens``."""
    return math.ceil(tokens * _MARGIN)


@cache
def _static_tokens(language: Language, chunk_count: int, count: Counter) -> int:
    schema = json.dumps(response_format(chunk_count)["json_schema"], separators=(",", ":"))
    return _TOKENS_OF_FORM + count(prompts.system_message(language)) + count(schema)


@cache
def _tokens_around(pairs_wanted: tuple[int, ...], count: Counter) -> int:
    """Of what stands around the texts of a prompt."""
    empty = [
        Chunk.model_construct(chunk_id="", language="en", text="", pairs_wanted=pairs)
        for pairs in pairs_wanted
    ]
    return count(prompts.user_message(empty))
