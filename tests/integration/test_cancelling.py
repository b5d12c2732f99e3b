"""Waiting messages are taken back while clients send and workers take."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.client import cancelling, collecting
from qaworker.client.cancelling import UNREADABLE, cancel, waiting
from qaworker.client.collecting import collect_results, submit_parallel_qa_generation
from qaworker.client.senders import publish
from qaworker.engine.batches import parse_batch
from qaworker.errors import StoreUnavailable
from qaworker.store.connections import connect
from qaworker.store.holds import holds, set_hold
from qaworker.store.outcomes import OutcomeReader
from qaworker.tasks import generate_qa_for_batch_async, generate_qa_for_chunk_async

pytestmark = pytest.mark.usefixtures("client_env")

MODEL = "gpt-5-mini"
TEXTS = ("The weir was raised in 1911.", "堰は一九一一年にかさ上げされた。")


def chunks(count: int) -> list[dict[str, Any]]:
    return [{"chunk_id": f"c{n}", "text": f"{TEXTS[n % 2]} ({n})"} for n in range(count)]


def send(run_id: str, queue: str = keys.DEFAULT_QUEUE, size: int = 2) -> None:
    publish(parse_batch(chunks(size), None, MODEL, run_id=run_id), queue, 1.0)


def runs_in(redis: Any, queue: str = keys.DEFAULT_QUEUE) -> list[str]:
    """The run of each waiting message, the oldest first."""
    bodies = reversed(redis.lrange(keys.queue(queue), 0, -1))
    return [json.loads(body)["headers"]["qaworker_run"] for body in bodies]


@pytest.fixture
def cancelled(redis_client: Redis) -> Callable[[str | None], cancelling.Waiting]:
    """Cancels a run, or all, without waiting for clients: there are none."""
    return lambda run_id: cancel(redis_client, redis_client, run_id, sleep=lambda _: None)


@pytest.mark.parametrize("page", [1, 3, 100])
def test_what_waits_of_a_run_goes_and_what_is_of_others_stays_in_order(
    redis_client: Redis,
    cancelled: Callable[..., cancelling.Waiting],
    page: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancelling, "PAGE", page)
    order = ["b", "a", "a", "c", "a", "b", "c", "c", "a"]
    for run_id in order:
        send(run_id)
    send("a", "high_priority", 5)
    assert waiting(redis_client, "a").messages == {"a": 5}
    removed = cancelled("a")
    assert (removed.messages, removed.chunks) == ({"a": 5}, {"a": 13})
    assert runs_in(redis_client) == [run_id for run_id in order if run_id != "a"]
    assert not redis_client.exists(keys.queue("high_priority"))


def test_all_takes_back_whatever_waits(
    redis_client: Any, cancelled: Callable[..., cancelling.Waiting]
) -> None:
    send("a")
    [submitted] = submit_parallel_qa_generation(chunks(3), None, MODEL, priority="low")
    delayed = [
        generate_qa_for_batch_async.delay(chunks(4)),
        generate_qa_for_batch_async.delay(chunks=chunks(5)),
        generate_qa_for_chunk_async.delay(chunks(1)[0]),
        # Celery keeps messages of each priority of their own in a list of its own.
        generate_qa_for_batch_async.apply_async([chunks(6)], priority=9),
    ]
    redis_client.lpush(keys.queue("qa_generation"), b"\xff no message")
    redis_client.set(keys.outcome("d0"), b"kept")
    expected = dict(zip([task.id for task in delayed], [4, 5, 1, 6], strict=True)) | {
        "a": 2,
        submitted.batch.run_id: 3,
        UNREADABLE: 0,
    }
    assert waiting(redis_client, None).chunks == expected
    assert cancelled(None).chunks == expected
    assert waiting(redis_client, None).messages == {}
    assert redis_client.get(keys.outcome("d0")) == b"kept"


def test_a_mark_tells_the_clients_of_the_run_or_of_all(
    redis_client: Redis, cancelled: Callable[..., cancelling.Waiting]
) -> None:
    reader = OutcomeReader(redis_client)
    assert reader.cancelled_at("a") == 0
    cancelled("a")
    at = reader.cancelled_at("a")
    assert at > 0
    assert reader.cancelled_at("b") == 0
    cancelled(None)
    assert reader.cancelled_at("a") == reader.cancelled_at("b") > at
    assert 0 < redis_client.ttl(keys.cancelled("a")) <= 24 * 3600


@pytest.mark.parametrize(("run_id", "left"), [("a", ["run:b", "run:c"]), (None, ["run:c"])])
def test_what_workers_hold_of_a_run_ends_with_it(
    redis_client: Redis, cancelled: Callable[..., cancelling.Waiting], run_id: str, left: list[str]
) -> None:
    for scope in ("run:a", "run:b"):
        set_hold(redis_client, scope, "budget", by="w-1@host")
    set_hold(redis_client, "run:c", "wrong prompt")
    cancelled(run_id)
    assert [hold.scope for hold in holds(redis_client)] == left


def test_each_message_is_removed_or_taken_while_clients_send_and_workers_take(
    redis_client: Any, cancelled: Callable[..., cancelling.Waiting], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "PAGE", 7)
    queue = keys.queue(keys.DEFAULT_QUEUE)
    for n in range(600):
        send("a" if n % 3 else "b")
    template = redis_client.lindex(queue, 0)
    taken: list[bytes] = []
    added = 0
    ending = threading.Event()

    def take() -> None:
        while not ending.is_set() and len(taken) < 300:
            if (message := redis_client.rpop(queue)) is not None:
                taken.append(message)

    def add() -> None:
        nonlocal added
        while not ending.is_set():
            added += 1
            message = json.loads(template)
            message["headers"] |= {"qaworker_run": "b", "id": f"added-{added}"}
            redis_client.lpush(queue, json.dumps(message))

    threads = [threading.Thread(target=take), threading.Thread(target=add)]
    for thread in threads:
        thread.start()
    try:
        removed = cancelled("a")
    finally:
        ending.set()
        for thread in threads:
            thread.join()
    left = redis_client.lrange(queue, 0, -1)
    headers = [json.loads(message)["headers"] for message in [*taken, *left]]
    ids = {header["id"] for header in headers}
    assert len(ids) == len(headers)
    assert removed.messages["a"] >= 100
    assert len(headers) + removed.messages["a"] == 600 + added
    assert "a" not in runs_in(redis_client)


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
def test_what_is_cancelled_is_told_by_one_clock(
    redis_client: Redis,
    cancelled: Callable[..., cancelling.Waiting],
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
) -> None:
    """The host of the client has a clock of its own."""
    real = time.time
    monkeypatch.setattr(collecting, "RECONCILE_EVERY_S", 0.0)
    monkeypatch.setattr(collecting, "LOST_AFTER_S", -1.0)
    monkeypatch.setattr(time, "time", lambda: real() + ahead_s)
    cancelled(None)
    tasks = submit_parallel_qa_generation(chunks(2), None, MODEL)
    redis_client.delete(keys.queue(keys.DEFAULT_QUEUE))
    # Lost, not cancelled.
    assert collect_results(tasks, timeout=0).failed == {}
    monkeypatch.setattr(time, "time", real)
    cancelled(None)
    assert collect_results(tasks, timeout=0).failed == {tasks[0].id: "cancelled: submit it again"}


def test_collecting_reports_what_was_cancelled_and_sends_it_to_nobody(
    redis_client: Redis,
    cancelled: Callable[..., cancelling.Waiting],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collecting, "RECONCILE_EVERY_S", 0.0)
    monkeypatch.setattr(collecting, "LOST_AFTER_S", -1.0)
    tasks = submit_parallel_qa_generation(chunks(2), None, MODEL)
    cancelled(None)
    collected = collect_results(tasks, timeout=30)
    assert collected.failed == {tasks[0].id: "cancelled: submit it again"}
    assert (list(collected), collected.pending) == ([], [])
    assert waiting(redis_client, None).messages == {}
    # Submitted again, it is as any other.
    again = submit_parallel_qa_generation(chunks(2), None, MODEL)
    assert collect_results(again, timeout=0).pending


def test_without_redis_there_is_our_error(tmp_path: Path) -> None:
    with connect(f"unix://{tmp_path}/no.sock") as redis, pytest.raises(StoreUnavailable):
        waiting(redis, None)
