"""The queue, as Celery and Redis keep it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.app import SENT_HEADER
from qaworker.client.driver import LOST_AFTER_S, RECONCILE_EVERY_S, Driver
from qaworker.client.senders import QUEUE_OF, QueueSender, publish
from qaworker.engine.batches import Batch, parse_batch
from qaworker.models import Chunk, GenerationConfig, Language, Priority
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader

pytestmark = pytest.mark.usefixtures("client_env")

QUEUE = keys.DEFAULT_QUEUE
TEXTS: dict[Language, str] = {
    "en": "The observatory kept its own time until 1902.",
    "ja": "天文台は一九〇二年まで独自の時刻を守っていた。",
}


def batch(language: Language = "en", run_id: str = "run") -> Batch:
    chunk = {"chunk_id": f"{language}-1", "text": TEXTS[language], "doc_id": "記事"}
    return parse_batch([chunk], {"batch_chunks": 2}, "gpt-5-mini", run_id=run_id)


def messages(redis: Any, queue: str = QUEUE) -> list[dict[str, Any]]:
    """What waits in a queue, the oldest first."""
    return [json.loads(body) for body in reversed(redis.lrange(keys.queue(queue), 0, -1))]


@pytest.fixture
def sender(redis_client: Redis) -> QueueSender:
    return QueueSender(redis_client, OutcomeReader(redis_client), QUEUE, ready_tasks=3)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_message_holds_what_a_worker_needs(redis_client: Redis, language: Language) -> None:
    task_id = publish(batch(language), QUEUE, 1_000_000.5)
    [message] = messages(redis_client)
    headers = message["headers"]
    assert headers["id"] == task_id
    assert headers["task"] == "qaworker.tasks.generate_qa_for_batch_async"
    assert headers["qaworker_run"] == "run"
    assert headers[SENT_HEADER] == 1_000_000.5
    assert TEXTS[language] not in json.dumps(headers, ensure_ascii=False)
    assert "記事" not in json.dumps(message, ensure_ascii=False)


def test_only_the_messages_of_a_run_with_a_budget_say_so(redis_client: Redis) -> None:
    for is_budgeted in (False, True):
        publish(replace(batch(), is_budgeted=is_budgeted), QUEUE, 1.0)
    told = [message["headers"].get("qaworker_budget") for message in messages(redis_client)]
    assert told == [None, True]


@pytest.mark.parametrize(
    ("priority", "queue"),
    [
        (None, "qa_generation"),
        ("high", "high_priority"),
        ("normal", "normal_priority"),
        ("low", "low_priority"),
    ],
)
def test_each_priority_has_its_queue(
    redis_client: Any, priority: Priority | None, queue: str
) -> None:
    publish(batch(), QUEUE_OF[priority], 1.0)
    waiting = {name: redis_client.llen(keys.queue(name)) for name in keys.QUEUES}
    assert waiting == {name: int(name == queue) for name in keys.QUEUES}


def test_there_is_room_for_what_is_missing_from_the_ready_tasks(sender: QueueSender) -> None:
    rooms = [sender.room()]
    for _ in range(4):
        sender.send(batch(), 1.0)
        rooms.append(sender.room())
    assert rooms == [3, 2, 1, 0, 0]


def test_what_was_sent_before_the_oldest_waiting_message_is_lost(sender: QueueSender) -> None:
    sender.send(batch(), 20.0)
    sender.send(batch(), 30.0)
    assert sender.lost([("d0", 10.0), ("d1", 20.0), ("d2", 30.0)]) == ["d0"]


def test_what_is_claimed_is_not_lost(sender: QueueSender, redis_client: Any) -> None:
    redis_client.set(keys.claim("d1"), "a worker")
    assert sender.lost([("d0", 1.0), ("d1", 1.0)]) == ["d0"]


def test_with_an_empty_queue_everything_unclaimed_is_lost(sender: QueueSender) -> None:
    assert sender.lost([("d0", time.time())]) == ["d0"]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create_or_open(tmp_path / "run") as opened:
        opened.fill(
            (Chunk(chunk_id=f"c{n}", text=f"text {n}", language="en", pairs_wanted=1), f"d{n}")
            for n in range(100)
        )
        opened.mark_filled(documents=1, skipped_rows=0)
        yield opened


class Reader(OutcomeReader):
    """By a clock that the test puts forward."""

    ahead_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.ahead_s


def test_no_message_that_waits_is_sent_again(ledger: Ledger, redis_client: Any) -> None:
    """No worker is there for a long while: the queue keeps its length."""
    reader = Reader(redis_client)
    sender = QueueSender(redis_client, reader, QUEUE, ready_tasks=4)
    config = GenerationConfig()
    driver = Driver(ledger, reader, sender, config=config, model="gpt-5-mini", clock=reader.now_s)
    for _ in range(10):
        driver.step()
        reader.ahead_s += LOST_AFTER_S / 2
    assert redis_client.llen(keys.queue(QUEUE)) == 4


def test_messages_that_a_wiped_redis_lost_are_sent_again(ledger: Ledger, redis_client: Any) -> None:
    reader = Reader(redis_client)
    sender = QueueSender(redis_client, reader, QUEUE, ready_tasks=100)
    config = GenerationConfig()
    driver = Driver(ledger, reader, sender, config=config, model="gpt-5-mini", clock=reader.now_s)
    driver.step()
    redis_client.flushall()
    reader.ahead_s = LOST_AFTER_S + RECONCILE_EVERY_S
    driver.step()
    assert len(messages(redis_client)) == 7
