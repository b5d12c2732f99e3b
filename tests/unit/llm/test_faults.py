from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import aiohttp
import httpx2
import openai
import pytest
from aiohttp.client_reqrep import ConnectionKey
from openai._vendor.httpx_aiohttp.transport import map_aiohttp_exceptions

from qaworker import errors
from qaworker.llm.faults import LIBRARY_ERRORS, retry_after_s, translate
from qaworker.models import Usage

CONNECTION = ConnectionKey("127.0.0.1", 9, False, False, None, None, None)
REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")


def status_error(
    status: int, error: object = None, headers: dict[str, str] | None = None
) -> openai.APIStatusError:
    """What the SDK raises for an answer with this ``error`` in its body."""
    message = error.get("message", "") if isinstance(error, dict) else str(error)
    response = httpx2.Response(status, headers=headers, request=REQUEST)
    return openai.APIStatusError(f"Error code: {status} - {message}", response=response, body=error)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "insufficient_quota", errors.HaltError),
        (429, "credit_balance_exhausted", errors.HaltError),
        (429, "organization_spend_limit_exceeded", errors.HaltError),
        (429, "project_spend_limit_exceeded", errors.HaltError),
        (429, "organization_usage_limit_exceeded", errors.HaltError),
        (429, "rate_limit_exceeded", errors.ProviderThrottled),
        (429, "slow_down", errors.ProviderThrottled),
        (429, None, errors.ProviderThrottled),
        (401, "invalid_api_key", errors.HaltError),
        (401, None, errors.HaltError),
        (402, None, errors.HaltError),
        (403, "unsupported_country_region_territory", errors.HaltError),
        (403, "model_not_found", errors.ModelRefused),
        (404, "model_not_found", errors.ModelRefused),
        (404, None, errors.ModelRefused),
        (405, None, errors.HaltError),
        (307, None, errors.HaltError),
        (400, "unsupported_parameter", errors.ModelRefused),
        (400, "unsupported_value", errors.ModelRefused),
        (400, "context_length_exceeded", errors.ChunkTooLarge),
        (400, "content_filter", errors.RequestRefused),
        (400, "content_policy_violation", errors.RequestRefused),
        (400, "invalid_prompt", errors.RequestRefused),
        (400, None, errors.RequestRefused),
        (422, None, errors.RequestRefused),
        (408, None, errors.ProviderUnavailable),
        (409, None, errors.ProviderUnavailable),
        (500, "server_error", errors.ProviderUnavailable),
        (502, None, errors.ProviderUnavailable),
        (503, "server_is_overloaded", errors.ProviderUnavailable),
    ],
)
def test_the_code_decides_before_the_status(
    status: int, code: str | None, expected: type[errors.CallError]
) -> None:
    ours = translate(status_error(status, {"message": "no", "code": code}), "gpt-5-mini")
    assert type(ours) is expected
    assert str(status) in str(ours)
    assert (code or "") in str(ours)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        # OpenAI puts some kinds in `type`; a request above the whole TPM never fits by waiting.
        (429, {"type": "insufficient_quota", "code": None}, errors.HaltError),
        (
            429,
            {
                "message": "Request too large for gpt-4o: Limit 200000",
                "code": "rate_limit_exceeded",
            },
            errors.ChunkTooLarge,
        ),
        # vLLM, llama.cpp and Ollama
        (
            400,
            {"message": "This model's maximum context length is 8192 tokens.", "code": 400},
            errors.ChunkTooLarge,
        ),
        (400, {"type": "exceed_context_size_error", "code": 400}, errors.ChunkTooLarge),
        (404, 'model "qwen3" not found, try pulling it first', errors.ModelRefused),
        (500, None, errors.ProviderUnavailable),
        (502, "<html>Bad Gateway</html>", errors.ProviderUnavailable),
    ],
)
def test_other_bodies(status: int, error: object, expected: type[errors.CallError]) -> None:
    assert type(translate(status_error(status, error), "qwen3")) is expected


def test_an_unknown_model_is_named() -> None:
    assert "'gpt-6'" in str(translate(status_error(404, {"code": "model_not_found"}), "gpt-6"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "9", "retry-after-ms": "150"}, 0.15),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30.0,
        ),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:27:00 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            0.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], expected: float | None) -> None:
    ours = translate(status_error(429, {"code": "rate_limit_exceeded"}, headers), "m")
    assert isinstance(ours, errors.ProviderThrottled)
    assert ours.retry_after_s == expected
    assert retry_after_s(httpx2.Headers(headers)) == expected


@pytest.mark.parametrize(
    "error",
    [
        openai.APITimeoutError(request=REQUEST),
        openai.APIConnectionError(request=REQUEST),
        openai.OpenAIError("odd"),
        httpx2.DecodingError("bad gzip"),
        aiohttp.ClientPayloadError("bad line"),
        aiohttp.ServerDisconnectedError(),
        TimeoutError(),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everything_below_http_is_an_unavailable_provider(error: Exception) -> None:
    assert isinstance(error, LIBRARY_ERRORS)
    ours = translate(error, "m")
    assert type(ours) is errors.ProviderUnavailable
    assert str(ours).startswith("no answer from the API: ")
    assert len(str(ours)) > len("no answer from the API: ")


@pytest.mark.parametrize(
    ("status", "error", "may_mean_text"),
    [
        (403, {"message": "no"}, True),
        (403, "<html>Forbidden</html>", True),
        (403, {"code": "unsupported_country_region_territory"}, False),
        (401, {"message": "no"}, False),
        (402, {"message": "no"}, False),
        (405, {"message": "no"}, False),
        (429, {"code": "insufficient_quota"}, False),
        (403, {"code": "model_not_found"}, False),
    ],
)
def test_only_a_bare_403_may_mean_the_text(
    status: int, error: object, *, may_mean_text: bool
) -> None:
    ours = translate(status_error(status, error), "m")
    assert isinstance(ours, errors.HaltError)
    assert ours.may_mean_text is may_mean_text


@pytest.mark.parametrize(
    ("status", "is_free"), [(400, True), (403, True), (429, True), (503, True), (504, False)]
)
def test_what_the_provider_refused_is_free(status: int, is_free: bool) -> None:
    assert translate(status_error(status, {"message": "no"}), "m").is_free is is_free


@pytest.mark.parametrize(
    ("cause", "is_free"),
    [
        (aiohttp.ClientConnectorError(CONNECTION, OSError(111, "Connection refused")), True),
        (aiohttp.ConnectionTimeoutError("Connection timeout to host"), True),
        (aiohttp.SocketTimeoutError("Timeout on reading data from socket"), False),
        (aiohttp.ServerDisconnectedError(), False),
        (aiohttp.ClientPayloadError("bad line"), False),
        (TimeoutError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_never_sent_is_free(cause: Exception, is_free: bool) -> None:
    with pytest.raises(LIBRARY_ERRORS) as raised, map_aiohttp_exceptions():
        raise cause
    wrapped = openai.APIConnectionError(request=REQUEST)
    wrapped.__cause__ = raised.value
    assert translate(wrapped, "m").is_free is is_free
    assert translate(cause, "m").is_free is is_free


@pytest.mark.parametrize("status", [400, 401, 422, 429, 500])
@pytest.mark.parametrize(
    "text", ["The canary sang on the reef all night.", "カナリアは一晩中岩礁の上で歌っていた。"]
)
def test_a_message_repeats_neither_prompt_nor_key(status: int, text: str) -> None:
    key = "plain-key-without-any-known-prefix"
    for said in (
        f"bad input: {text}",
        f"bad input: {text[5:]!a}",
        f"wrong key {key}",
        "sk-abcdefghijkl",
    ):
        ours = str(translate(status_error(status, {"message": said}), "m", [text, key]))
        assert "canary" not in ours
        assert "カナリア" not in ours
        assert "\\u" not in ours
        assert key not in ours
        assert "sk-abc" not in ours


@pytest.mark.parametrize("text", ["Too many tokens for you.", "トークンが多すぎます。"])
def test_what_the_server_says_is_passed_on_as_one_short_line(text: str) -> None:
    ours = str(
        translate(status_error(400, {"message": f"{text}\n\nSee:\t{'x ' * 500}"}), "m", ["y"])
    )
    assert f"{text} See: x x" in ours
    assert "\n" not in ours
    assert len(ours) <= 300


def test_what_the_server_says_can_be_stored_even_if_it_cut_a_character_in_two() -> None:
    for error in (
        status_error(401, {"message": "bad \ud83d", "code": "\udc00"}),
        status_error(400, {"message": "bad \ud83d"}),
        openai.APIConnectionError(message="bad \ud83d", request=REQUEST),
    ):
        ours = str(translate(error, "m"))
        assert "bad ?" in ours
        ours.encode()


def kinds(root: type[errors.CallError]) -> Iterator[type[errors.CallError]]:
    yield root
    for kind in root.__subclasses__():
        yield from kinds(kind)


@pytest.mark.parametrize("kind", list(kinds(errors.CallError)), ids=lambda kind: kind.__name__)
def test_ours_survive_a_pickle(kind: type[errors.CallError]) -> None:
    more: dict[str, Any] = {"retry_after_s": 2.5} if kind is errors.ProviderThrottled else {}
    error = kind("理由", usage=Usage(input=3), **more)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), vars(copy)) == (str(error), vars(error))
