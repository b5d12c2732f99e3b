"""Reads a request for a chat completion, as strictly as OpenAI does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from qaworker.simulator.replies import count_tokens, invalid

_SCHEMA_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_REASONING_MODELS = ("gpt-5", "o1", "o3", "o4")


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What the simulator needs of a request."""

    model: str
    prompt: str
    """The user's messages, joined by a line break."""
    opening: str
    """The first of them: what all attempts at a prompt have in common."""
    prompt_tokens: int
    cap: int | None
    """``max_completion_tokens``."""
    wants_chunk_id: bool


def parse(body: bytes) -> CompletionRequest:
    """Check and read the body of ``POST /v1/chat/completions``.

    Raises:
        Refused: 400 for what OpenAI would not accept.
    """
    request = json_object(body)
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("you must provide a model parameter", "model")
    for name in ("stream", "tools"):
        if request.get(name):
            raise invalid(f"The simulator does not know '{name}'.", name, "unsupported_parameter")
    cap = request.get("max_completion_tokens")
    if cap is not None and (not isinstance(cap, int) or cap < 1):
        message = "'max_completion_tokens' must be an integer of at least 1."
        raise invalid(message, "max_completion_tokens")
    _check_options(model, request)
    texts = _texts(request.get("messages"))
    said = [text for role, text in texts if role == "user"]
    return CompletionRequest(
        model=model,
        prompt="\n".join(said),
        opening=said[0] if said else "",
        prompt_tokens=sum(count_tokens(text) for _, text in texts),
        cap=cap,
        wants_chunk_id="chunk_id" in _pair_properties(request.get("response_format")),
    )


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        Refused: 400, it holds none.
    """
    try:
        value = json.loads(body)
    except ValueError as error:
        raise invalid("We could not parse the JSON body of your request.") from error
    if not isinstance(value, dict):
        raise invalid("The body of your request must be a JSON object.")
    return value


def _check_options(model: str, request: dict[str, Any]) -> None:
    """Refuse what this kind of model refuses."""
    if model.startswith(_REASONING_MODELS):
        if request.get("temperature") not in {None, 1}:
            message = "Unsupported value: 'temperature' must be the default (1) with this model."
            raise invalid(message, "temperature", "unsupported_value")
        if "max_tokens" in request:
            message = "Unsupported parameter: use 'max_completion_tokens' with this model."
            raise invalid(message, "max_tokens", "unsupported_parameter")
    elif model.startswith("gpt-4") and "reasoning_effort" in request:
        message = "Unrecognized request argument supplied: reasoning_effort"
        raise invalid(message, "reasoning_effort")


def _texts(messages: object) -> list[tuple[str, str]]:
    """Role and text of each message."""
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a list that is not empty.", "messages")
    texts = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        if not isinstance(content, str):
            raise invalid("Each of 'messages' must have text as its 'content'.", "messages")
        texts.append((str(message.get("role")), content))
    return texts


def _pair_properties(response_format: object) -> dict[str, Any]:
    """The properties of one pair in the schema asked for; none without a schema."""
    if response_format is None:
        return {}
    if not isinstance(response_format, dict) or response_format.get("type") != "json_schema":
        raise invalid("The simulator knows the type 'json_schema' alone.", "response_format")
    described = response_format.get("json_schema")
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise invalid("Missing required parameter: 'json_schema.schema'.", "response_format")
    if not _SCHEMA_NAME.fullmatch(str(described.get("name", ""))):
        raise invalid("'json_schema.name' must match [a-zA-Z0-9_-]{1,64}.", "response_format")
    schema = described["schema"]
    if described.get("strict"):
        _check_strict(schema, "()")
    items = schema.get("properties", {}).get("pairs", {}).get("items", {})
    if reference := items.get("$ref"):
        items = schema.get("$defs", {}).get(str(reference).removeprefix("#/$defs/"), {})
    properties: dict[str, Any] = items.get("properties", {})
    return properties


def _check_strict(schema: dict[str, Any], where: str) -> None:
    """In strict mode an object lists every property as required and allows no other."""
    if schema.get("type") == "object":
        problem = ""
        if schema.get("additionalProperties") is not False:
            problem = "'additionalProperties' is required to be supplied and to be false"
        elif set(schema.get("required", ())) != set(schema.get("properties", {})):
            problem = "'required' is required to include every key in properties"
        if problem:
            message = f"Invalid schema for response_format: In context={where}, {problem}."
            raise invalid(message, "response_format")
    for group in ("properties", "$defs"):
        for name, child in schema.get(group, {}).items():
            _check_strict(child, f"{where}.{name}")
    if "items" in schema:
        _check_strict(schema["items"], f"{where}.items")
    for child in schema.get("anyOf", ()):
        _check_strict(child, where)
