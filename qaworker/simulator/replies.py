"""The bodies of answers and errors, shaped as OpenAI's."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

BYTES_PER_TOKEN = 4
"""Tokens are counted as UTF-8 bytes by four: cheap, and near the truth in both languages."""

INVALID_REQUEST = "invalid_request_error"


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as the API answers it."""

    status: int
    code: str | None
    kind: str
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def response(self) -> web.Response:
        """The HTTP response that says so."""
        error = {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }
        return web.Response(
            status=self.status,
            body=encode({"error": error}),
            content_type="application/json",
            headers=self.headers,
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What one completion says and what it costs."""

    content: str | None
    completion_tokens: int
    finish_reason: str = "stop"
    refusal: str | None = None


class Refused(Exception):
    """The request ends with an error; ``reply`` is what the client is told."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """The request is wrong: status 400."""
    return Refused(ErrorReply(400, code, INVALID_REQUEST, message, param))


def not_found(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """There is no such path or model: status 404."""
    return Refused(ErrorReply(404, code, INVALID_REQUEST, message, param))


def no_such_model(model: str) -> Refused:
    """The request names a model that is not served: status 404."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return not_found(message, "model", "model_not_found")


def unauthorized(message: str) -> Refused:
    """The key is missing or wrong: status 401."""
    return Refused(ErrorReply(401, "invalid_api_key", INVALID_REQUEST, message))


def count_tokens(text: str) -> int:
    """Tokens of a text, by its length (see BYTES_PER_TOKEN)."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def capped(content: str, cap: int | None) -> Answer:
    """``content``, cut at ``cap`` tokens with finish reason ``length`` when it is longer."""
    tokens = count_tokens(content)
    if cap is None or tokens <= cap:
        return Answer(content, tokens)
    kept = content.encode()[: cap * BYTES_PER_TOKEN].decode(errors="ignore")
    return Answer(kept, cap, "length")


def completion(name: str, model: str, prompt_tokens: int, answer: Answer) -> bytes:
    """The JSON of one chat completion."""
    return encode(
        {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {
                        "role": "assistant",
                        "content": answer.content,
                        "refusal": answer.refusal,
                        "annotations": [],
                    },
                    "logprobs": None,
                    "finish_reason": answer.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "total_tokens": prompt_tokens + answer.completion_tokens,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
            "system_fingerprint": None,
        }
    )


def model_card(model: str) -> dict[str, Any]:
    """One model, as ``GET /v1/models`` lists it."""
    return {"id": model, "object": "model", "created": 0, "owned_by": "simulator"}


def encode(value: object) -> bytes:
    """``value`` as compact JSON, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
