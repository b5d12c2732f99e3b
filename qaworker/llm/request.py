"""The body of one request to ``/chat/completions``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from qaworker.llm import prompts
from qaworker.llm.reasoning import REASONING_TOKENS, admitted_effort, is_reasoning
from qaworker.llm.schema import response_format
from qaworker.models import Chunk, GenerationConfig, Language

TOKENS_PER_PAIR: Final[dict[Language, int]] = {"en": 160, "ja": 220}
"""Room for one pair. In o200k_base the JSON around it takes 30 tokens; with a one-line question,
and two long sentences each of answer and evidence, it is about 110 in English, 170 in Japanese."""

_TOKENS_AROUND: Final = 32  # the enclosing object, and a fence where a server adds one


def output_cap(
    chunks: Sequence[Chunk], config: GenerationConfig, model: str, *, cap_factor: float = 1.0
) -> int:
    """The ``max_completion_tokens`` of a request.

    It is tight because providers count the cap, not the answer, when they admit a request; an
    answer that needs more is asked for again with a larger ``cap_factor``.
    """
    tokens = _TOKENS_AROUND + sum(
        chunk.pairs_wanted * TOKENS_PER_PAIR[chunk.language] for chunk in chunks
    )
    if is_reasoning(model):
        tokens += REASONING_TOKENS[admitted_effort(model, config.reasoning_effort)]
    return math.ceil(tokens * cap_factor)


def request_body(
    chunks: Sequence[Chunk],
    config: GenerationConfig,
    model: str,
    *,
    cap_factor: float = 1.0,
    repair: str | None = None,
) -> dict[str, Any]:
    """One prompt with all of ``chunks``, static part first; the first one's language leads."""
    language = chunks[0].language
    messages = [
        {"role": "system", "content": prompts.system_message(language)},
        {"role": "user", "content": prompts.user_message(chunks)},
    ]
    if repair is not None:
        messages.append({"role": "user", "content": prompts.repair_message(language, repair)})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "response_format": response_format(len(chunks)),
        "max_completion_tokens": output_cap(chunks, config, model, cap_factor=cap_factor),
    }
    if is_reasoning(model):
        body["reasoning_effort"] = admitted_effort(model, config.reasoning_effort)
    else:
        body["temperature"] = config.temperature
    return body
