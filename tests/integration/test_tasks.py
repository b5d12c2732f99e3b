from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import states

from qaworker import keys, runtime, settings, tasks
from qaworker.app import RUN_HEADER, SENT_HEADER
from qaworker.client.collecting import collect_results
from qaworker.engine.thread import EngineThread
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.tasks import generate_qa_for_chunk_async

pytestmark = pytest.mark.usefixtures("client_env")

CHUNK = {"chunk_id": "c", "text": "The lock was widened in 1894. 閘門は拡幅された。"}


def run_failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, **options: Any) -> Any:
    """Run a task as a worker does, whose engine raises ``error``."""

    def start(_: object) -> None:
        raise error

    monkeypatch.setattr(runtime, "start", start)
    return generate_qa_for_chunk_async.apply(args=[CHUNK], **options)


def test_a_task_that_fails_says_so_to_who_sent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_failing(monkeypatch, KeyError("lock"))
    assert isinstance(result.result, KeyError)
    collected = collect_results([result], timeout=0)
    assert collected.failed == {result.id: "KeyError: see the worker's log"}
    assert not collected.pending


@pytest.mark.parametrize(
    "error", [StoreUnavailable("away"), MemoryError(), ConfigError("a file changed")]
)
def test_a_task_that_is_handed_back_has_not_failed(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(tasks, "HAND_BACK_S", 0.01)
    result = run_failing(monkeypatch, error)
    collected = collect_results([result], timeout=0)
    assert result.state == states.REJECTED
    assert collected.failed == {}
    assert collected.pending == [result]


def test_a_task_of_a_run_leaves_no_note(monkeypatch: pytest.MonkeyPatch, redis_client: Any) -> None:
    result = run_failing(monkeypatch, KeyError("lock"), headers={"qaworker_run": "run"})
    assert not redis_client.exists(keys.task(result.id))


@pytest.mark.parametrize(
    ("headers", "is_handed_back"),
    [
        ({RUN_HEADER: "a", SENT_HEADER: 5.0}, False),
        ({RUN_HEADER: "a", SENT_HEADER: 6.0}, True),
        ({RUN_HEADER: "b", SENT_HEADER: 5.0}, True),
        ({SENT_HEADER: 1.0}, True),
    ],
)
def test_what_cannot_be_ended_of_a_cancelled_run_is_not_handed_back(
    monkeypatch: pytest.MonkeyPatch,
    redis_client: Any,
    headers: dict[str, Any],
    is_handed_back: bool,
) -> None:
    """As while its model is held: the message would come again and again."""
    redis_client.set(keys.cancelled("a"), "5.0")
    engine = SimpleNamespace(submit=lambda _: SimpleNamespace(result=dict), is_held=lambda _: False)
    running = runtime.Runtime(settings.load(), redis_client, cast("EngineThread", engine))
    monkeypatch.setattr(runtime, "start", lambda _: running)
    result = generate_qa_for_chunk_async.apply(args=[CHUNK], headers=headers)
    assert result.state == (states.REJECTED if is_handed_back else states.SUCCESS)


@pytest.mark.parametrize("headers", [None, {SENT_HEADER: 1.0, "other": 2}])
def test_a_message_says_when_it_was_sent(redis_client: Any, headers: Any) -> None:
    before_s = time.time()
    generate_qa_for_chunk_async.apply_async(args=[CHUNK], headers=headers)
    [message] = redis_client.lrange(keys.queue(keys.DEFAULT_QUEUE), 0, -1)
    said = json.loads(message)["headers"]
    if headers is None:
        assert before_s <= said[SENT_HEADER] <= time.time()
    else:
        assert headers.items() <= said.items()
    assert CHUNK["text"] not in json.dumps(said, ensure_ascii=False)
