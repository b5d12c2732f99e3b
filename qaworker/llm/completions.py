"""Reading a completion: first what it cost, then what it says."""

from __future__ import annotations

import json
from typing import Any, Final

from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    ProviderUnavailable,
    RequestRefused,
)
from qaworker.models import Usage

# Beyond any context: whoever counts more says nothing that limits, budgets and sums could bear.
_MOST_TOKENS: Final = 10_000_000


def read_completion(body: bytes) -> tuple[str, Usage]:
    """The content of a completion's first choice, and the tokens charged for it.

    Raises:
        AnswerTruncated: the output cap was reached first.
        AnswerInvalid: there is no content.
        RequestRefused: the model refused, or the content filter stopped it.
        ProviderUnavailable: it is no completion; servers have answered 200 with an error page.

    Every error carries the usage, where the body tells it.
    """
    try:
        completion = _mapping(json.loads(body))
    except (ValueError, RecursionError):
        completion = {}
    usage = _read_usage(completion)
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ProviderUnavailable("the server answered with something else than a completion")
    choice = _mapping(choices[0])
    message = _mapping(choice.get("message"))
    finish_reason = choice.get("finish_reason")
    if finish_reason == "length":
        raise AnswerTruncated(usage=usage)
    if finish_reason == "content_filter":
        raise RequestRefused("the content filter stopped the answer", usage=usage)
    # The refusal's own words may repeat the text, so they are not quoted.
    if message.get("refusal"):
        raise RequestRefused("the model refused to answer", usage=usage)
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise AnswerInvalid("the answer is empty", usage=usage)
    return content, usage


def _read_usage(completion: dict[str, Any]) -> Usage:
    usage = _mapping(completion.get("usage"))
    return Usage(
        input=_count(usage.get("prompt_tokens")),
        output=_count(usage.get("completion_tokens")),
        cached=_count(_mapping(usage.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning=_count(_mapping(usage.get("completion_tokens_details")).get("reasoning_tokens")),
    )


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 < value <= _MOST_TOKENS else 0
