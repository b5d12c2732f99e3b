from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    CallError,
    ProviderUnavailable,
    RequestRefused,
)
from qaworker.llm.completions import read_completion
from qaworker.models import Usage

Completion = Callable[..., dict[str, Any]]
CHARGED = Usage(input=700, output=120, cached=64, reasoning=20)


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_content_and_usage_are_read(
    completion: Completion, pair: dict[str, str], ensure_ascii: bool
) -> None:
    body = json.dumps(completion([pair]), ensure_ascii=ensure_ascii).encode()
    content, usage = read_completion(body)
    assert json.loads(content) == {"pairs": [pair]}
    assert usage == CHARGED


@pytest.mark.parametrize(
    ("content", "choice", "expected"),
    [
        ('{"pairs": [', {"finish_reason": "length"}, AnswerTruncated),
        ("", {"finish_reason": "length"}, AnswerTruncated),
        (None, {"finish_reason": "content_filter"}, RequestRefused),
        (None, {"refusal": "I cannot help with the canary."}, RequestRefused),
        (None, {}, AnswerInvalid),
        (" \n", {}, AnswerInvalid),
    ],
    ids=["cut", "cut while reasoning", "filtered", "refused", "none", "blank"],
)
def test_no_answer_is_an_error_that_knows_what_was_charged(
    completion: Completion, content: str | None, choice: dict[str, str], expected: type[CallError]
) -> None:
    with pytest.raises(expected) as caught:
        read_completion(json.dumps(completion(content, **choice)).encode())
    assert caught.value.usage == CHARGED
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>maintenance</html>", b"[]", b"null", b'{"choices": []}', b"\xff", b"[" * 100_000,
     b'{"error": {"message": "overloaded"}}', b'{"choices": {"0": 1}}'],
)  # fmt: skip
def test_what_is_no_completion_is_a_broken_provider(body: bytes) -> None:
    with pytest.raises(ProviderUnavailable):
        read_completion(body)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": "7", "completion_tokens": -1, "prompt_tokens_details": None},
        {"prompt_tokens": 10**400, "completion_tokens": 10_000_001},
    ],
)
def test_servers_may_leave_the_usage_out(completion: Completion, usage: object) -> None:
    body = json.dumps({**completion("{}"), "usage": usage}).encode()
    assert read_completion(body)[1] == Usage()
