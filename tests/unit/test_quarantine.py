"""What a worker can read, and what it must not be given."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from qaworker.errors import MessageInvalid
from qaworker.quarantine import check

TASK = "qaworker.tasks.generate_qa_for_batch_async"
SECRET = "The weir was raised in 1911. 堰。"


def message() -> dict[str, Any]:
    """As Celery sends it."""
    return {
        "body": body([[{"chunk_id": "c", "text": SECRET}], {}, "m"]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": TASK,
            "id": "5186e84f",
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [None, None],
            "root_id": "5186e84f",
            "parent_id": None,
            "argsrepr": "(…)",
            "kwargsrepr": "{…}",
            "origin": "gen1@host",
            "ignore_result": True,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
            "qaworker_run": "run",
            "qaworker_sent_at": 1795377071.8,
        },
        "properties": {
            "correlation_id": "5186e84f",
            "reply_to": "220a",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "qa_generation"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "300ab344",
        },
    }


def body(positional: object = (), named: object = None, embedded: object = None) -> str:
    given = [positional, {} if named is None else named, embedded]
    return base64.b64encode(json.dumps(given).encode()).decode()


def changed(*path: str, to: object) -> bytes:
    """A message that is right but for one thing."""
    whole = message()
    part = whole
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = to
    return json.dumps(whole).encode()


def without(*path: str) -> bytes:
    whole = message()
    part = whole
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    "raw",
    [
        changed("headers", "retries", to=1),
        changed("headers", "timelimit", to=[300, 270.5]),
        changed("headers", "eta", to="2026-11-22T19:51:14.864845+00:00"),
        changed("headers", "expires", to="2026-11-22T19:51:14Z"),
        changed("headers", "unknown", to={"of": "another version"}),
        changed("properties", "delivery_info", to={"exchange": "", "routing_key": "q", "redelivered": True}),
        changed("body", to=body([], {"chunks": []}, {"callbacks": None, "chain": []})),
        without("headers", "qaworker_run"),
        without("headers", "qaworker_sent_at"),
    ],
)  # fmt: skip
def test_what_celery_sends_passes(raw: bytes) -> None:
    check(raw, {TASK})


POISON: dict[str, bytes] = {
    "nothing": b"",
    "garbage": b"{",
    "no text": b"\xff\xfe\x00",
    "UTF-16": json.dumps(message()).encode("utf-16"),
    "a number": b"42",
    "null": b"null",
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "an object without anything": b"{}",
    "a type of kombu's with a wrong value": b'{"__type__": "datetime", "__value__": "zz"}',
    "an unknown type": b'{"__type__": "zz", "__value__": 1}',
    "no headers": without("headers"),
    "headers of another type": changed("headers", to=[]),
    "no id": without("headers", "id"),
    "an id of another type": changed("headers", "id", to=["a"]),
    "no task": without("headers", "task"),
    "an unknown task": changed("headers", "task", to="os.system"),
    "a task of another type": changed("headers", "task", to={}),
    "a time limit that is text": changed("headers", "timelimit", to="zz"),
    "time limits that are text": changed("headers", "timelimit", to=["z", "z"]),
    "three time limits": changed("headers", "timelimit", to=[1, 2, 3]),
    "a time limit without end": changed("headers", "timelimit", to=[float("inf"), None]),
    "a time limit that is no number": changed("headers", "timelimit", to=[float("nan"), None]),
    "retries that are text": changed("headers", "retries", to="many"),
    "a moment that is none": changed("headers", "eta", to="tomorrow"),
    "an expiry that is a number": changed("headers", "expires", to=5),
    "stamps that are a number": changed("headers", "stamped_headers", to=5),
    "a compression": changed("headers", "compression", to="application/x-zz"),
    "a time of sending that is text": changed("headers", "qaworker_sent_at", to="zz"),
    "pickle": changed("content-type", to="application/x-python-serialize"),
    "no content type": without("content-type"),
    "an unknown encoding": changed("content-encoding", to="zz"),
    "no properties": without("properties"),
    "no delivery tag": without("properties", "delivery_tag"),
    "a delivery tag that is true": changed("properties", "delivery_tag", to=True),
    "no delivery info": without("properties", "delivery_info"),
    "an unknown body encoding": changed("properties", "body_encoding", to="zz"),
    "a priority that is text": changed("properties", "priority", to="high"),
    "no body": without("body"),
    "a body of another type": changed("body", to={"a": 1}),
    "a body that is not base64": changed("body", to="***"),
    "a body that is not ASCII": changed("body", to="本文"),
    "a body that is not JSON": changed("body", to=base64.b64encode(b"{").decode()),
    "a body that is deep": changed("body", to=base64.b64encode(b"[" * 100_000).decode()),
    "a body of two": changed("body", to=base64.b64encode(b"[[], {}]").decode()),
    "a body that is an object": changed("body", to=base64.b64encode(b"{}").decode()),
    "arguments of another type": changed("body", to=body("text")),
    "named arguments of another type": changed("body", to=body([], [])),
    "callbacks of another type": changed("body", to=body([], {}, {"callbacks": 5})),
    "callbacks that are text": changed("body", to=body([], {}, {"errbacks": ["zz"]})),
}  # fmt: skip


@pytest.mark.parametrize("raw", POISON.values(), ids=POISON)
def test_what_would_end_a_worker_is_refused_and_not_quoted(raw: bytes) -> None:
    with pytest.raises(MessageInvalid) as refused:
        check(raw, {TASK})
    assert "weir" not in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: changed("headers", "timelimit", to="zz"), "headers.timelimit: "),
        (lambda: without("headers", "id"), "headers.id: "),
        (lambda: b"{", "message: not JSON"),
        (lambda: b"[" * 100_000, "message: nested too deeply"),
        (lambda: changed("body", to=body("text")), "positional: "),
    ],
)
def test_the_error_says_where(make: Callable[[], bytes], where: str) -> None:
    with pytest.raises(MessageInvalid) as refused:
        check(make(), {TASK})
    assert str(refused.value).startswith(where)
