"""Tells messages that a worker can read from those that would end it, and puts the latter aside.

Celery and kombu trust what they read: broken JSON, a missing header or one of another type ends the
worker, comes back to the queue, and ends the next one.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Container
from datetime import timedelta
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

from celery.utils.time import maybe_iso8601
from kombu.utils.json import loads
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from qaworker import logs, settings
from qaworker.errors import MessageInvalid
from qaworker.redis_errors import store_errors
from qaworker.store import dead_letters
from qaworker.store.connections import connect
from qaworker.store.dead_letters import UNREADABLE, DeadLetter

log = logs.get(__name__)

_LONGEST_LIMIT_S: Final = 86_400


def _parse_moment(text: str) -> str:
    maybe_iso8601(text)
    return text


_Text = Annotated[str, Field(min_length=1)]
_Moment = Annotated[str, AfterValidator(_parse_moment)]
_Seconds = Annotated[float, Field(gt=0, le=_LONGEST_LIMIT_S)]


class _Part(BaseModel):
    """What Celery and kombu read of a message; the rest they carry along."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)


class _Headers(_Part):
    id: _Text
    task: _Text
    root_id: str | None = None
    parent_id: str | None = None
    group: str | None = None
    shadow: str | None = None
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: str | None = None
    retries: Annotated[int, Field(ge=0)] = 0
    timelimit: Annotated[list[_Seconds | None], Field(min_length=2, max_length=2)] | None = None
    eta: _Moment | None = None
    expires: _Moment | None = None
    ignore_result: bool | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None
    compression: None = None
    qaworker_run: str | None = None
    qaworker_sent_at: float | None = None


class _DeliveryInfo(_Part):
    exchange: str
    routing_key: str


class _Properties(_Part):
    delivery_tag: _Text
    delivery_info: _DeliveryInfo
    body_encoding: Literal["base64"]
    correlation_id: str | None = None
    reply_to: str | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None


class _Envelope(_Part):
    body: str
    content_type: Annotated[Literal["application/json"], Field(alias="content-type")]
    content_encoding: Annotated[Literal["utf-8"], Field(alias="content-encoding")]
    headers: _Headers
    properties: _Properties


class _Embedded(_Part):
    callbacks: list[dict[str, Any]] | None = None
    errbacks: list[dict[str, Any]] | None = None
    chain: list[dict[str, Any]] | None = None
    chord: dict[str, Any] | None = None


class _Body(_Part):
    positional: list[Any]
    named: dict[str, Any]
    embedded: _Embedded | None


def check(raw: bytes, tasks: Container[str]) -> None:
    """Find out whether a worker can take a message.

    Args:
        raw: the message as it stands in the queue.
        tasks: the names of tasks there are.

    Raises:
        MessageInvalid: it cannot; the text tells nothing of the content.
    """
    try:
        envelope = _Envelope.model_validate(_json(raw, "message"))
        if envelope.headers.task not in tasks:
            raise MessageInvalid("headers.task: there is no such task")
        body = _json(base64.b64decode(envelope.body, validate=True), "body")
        if not isinstance(body, list) or len(body) != len(_Body.model_fields):
            raise MessageInvalid("body: not a list of three")
        _Body.model_validate(dict(zip(_Body.model_fields, body, strict=True)))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise MessageInvalid(f"{where or 'message'}: {problem['msg']}") from error
    except ValueError as error:  # of base64
        raise MessageInvalid(f"body: {error}") from error


def _json(raw: bytes, what: str) -> Any:
    try:
        return loads(raw)
    except MemoryError:
        raise
    except RecursionError as error:
        raise MessageInvalid(f"{what}: nested too deeply") from error
    except Exception as error:  # what kombu's decoders of types raise
        raise MessageInvalid(f"{what}: not JSON ({type(error).__name__})") from error


def put_aside(raw: bytes, queue: str, why: str) -> None:
    """Keep a message that cannot be read as a dead letter.

    Raises:
        StoreUnavailable: the Redis of outcomes does not answer; nothing is kept.
    """
    values = settings.load()
    keep = timedelta(days=values.outcome_days)
    letter = DeadLetter(
        digest=blake2b(raw, digest_size=16).hexdigest(),
        reason=UNREADABLE,
        detail=why,
        died_at=time.time(),
        queue=queue,
        raw=raw,
    )
    with (
        connect(values.redis_url) as redis,
        store_errors(),
        redis.pipeline(transaction=True) as pipe,
    ):
        dead_letters.put(pipe, letter, keep)
        pipe.execute()
    log.error("message_unreadable", queue=queue, digest=letter.digest, error=why)
