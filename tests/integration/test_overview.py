"""The queues as Celery leaves them in Redis, counted without asking a worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Consumer

from qaworker import keys
from qaworker.app import app
from qaworker.client.senders import BATCH_TASK, publish
from qaworker.engine.batches import parse_batch
from qaworker.errors import StoreUnavailable
from qaworker.store import overview
from qaworker.store.connections import connect
from qaworker.store.overview import Queue

pytestmark = pytest.mark.usefixtures("client_env")

NOTHING = [Queue(name, 0, 0, None) for name in keys.QUEUES]


def send(queue: str, *, ago_s: float) -> None:
    """Publish a task as large as real ones, sent so long ago."""
    chunks = [{"chunk_id": str(n), "text": "The tide turns. 潮が変わる。" * 50} for n in range(16)]
    batch = parse_batch(chunks, {}, "gpt-5-mini", run_id="run")
    publish(batch, queue, time.time() - ago_s)


@contextmanager
def held(queue: str, amount: int) -> Iterator[None]:
    """A consumer that holds so many messages of a queue, as a worker does."""
    import qaworker.tasks  # noqa: F401, as a worker does

    with app.connection_for_read() as connection:
        channel: Any = connection.channel()
        taken: list[Any] = []
        consumer = Consumer(
            channel,
            [app.amqp.queues[queue]],
            callbacks=[lambda _body, message: taken.append(message)],
        )
        channel.basic_qos(0, amount, False)
        consumer.consume()
        while len(taken) < amount:
            connection.drain_events(timeout=10)
        consumer.cancel()
        yield


def named(redis: Any, name: str) -> Queue:
    return next(queue for queue in overview.queues(redis) if queue.name == name)


def test_an_empty_redis_has_empty_queues_in_their_order(redis_client: Any) -> None:
    assert overview.queues(redis_client) == NOTHING


def test_what_waits_is_counted_with_the_age_of_the_oldest(redis_client: Any) -> None:
    for ago_s in (300, 700, 20):
        send("low_priority", ago_s=ago_s)
    waiting = named(redis_client, "low_priority")
    assert (waiting.ready, waiting.unacknowledged) == (3, 0)
    # First in, first out: the message sent first is the one that waits longest.
    assert waiting.oldest_age_s == pytest.approx(300, abs=10)
    others = [queue for queue in overview.queues(redis_client) if queue.name != "low_priority"]
    assert others == [queue for queue in NOTHING if queue.name != "low_priority"]


def test_a_message_that_was_handed_back_is_as_old_as_it_was(redis_client: Any) -> None:
    """It comes last again, behind those that were sent later."""
    for ago_s in (20, 10, 700):
        send("low_priority", ago_s=ago_s)
    assert named(redis_client, "low_priority").oldest_age_s == pytest.approx(700, abs=10)


def test_what_workers_hold_is_counted_by_queue(redis_client: Any) -> None:
    for queue in ("qa_generation", "low_priority"):
        for _ in range(5):
            send(queue, ago_s=0)
    with held("qa_generation", 3), held("low_priority", 1):
        counted = {q.name: (q.ready, q.unacknowledged) for q in overview.queues(redis_client)}
    assert counted == {
        "high_priority": (0, 0),
        "qa_generation": (2, 3),
        "normal_priority": (0, 0),
        "low_priority": (4, 1),
    }


def test_messages_whose_tag_names_no_queue_are_counted_too(redis_client: Any) -> None:
    """Those of a Celery without our transport."""
    send("low_priority", ago_s=0)
    with held("low_priority", 1):
        [(tag, message)] = redis_client.hgetall(keys.unacked()).items()
        assert tag.startswith(b"low_priority:")
        redis_client.hset(keys.unacked(), "6f1c", message)
        assert named(redis_client, "low_priority").unacknowledged == 2


def test_messages_of_every_priority_count(redis_client: Any) -> None:
    """Celery keeps a list for each step; a task of somebody else's may have a priority."""
    for priority, ago_s in ((None, 10), (4, 500), (9, 100)):
        app.send_task(
            BATCH_TASK,
            args=([],),
            queue="qa_generation",
            priority=priority,
            headers={"qaworker_sent_at": time.time() - ago_s},
        )
    waiting = named(redis_client, "qa_generation")
    assert waiting.ready == 3
    assert waiting.oldest_age_s == pytest.approx(500, abs=10)


def test_a_message_that_does_not_say_when_it_was_sent_has_no_age(redis_client: Any) -> None:
    app.send_task(BATCH_TASK, args=([],), queue="qa_generation")
    assert named(redis_client, "qa_generation") == Queue("qa_generation", 1, 0, None)


def test_what_is_no_message_hides_no_other(redis_client: Any) -> None:
    send("qa_generation", ago_s=0)
    redis_client.rpush(keys.queue("qa_generation"), "nonsense")
    redis_client.hset(keys.unacked(), "tag", "nonsense")
    waiting = named(redis_client, "qa_generation")
    assert (waiting.ready, waiting.unacknowledged) == (2, 0)
    assert waiting.oldest_age_s == pytest.approx(0, abs=10)


def test_redis_says_how_fast_it_is(redis_client: Any) -> None:
    assert 0 < overview.latency_ms(redis_client) < 1000


@pytest.mark.parametrize("ask", [overview.queues, overview.latency_ms])
def test_without_redis_there_is_our_error(tmp_path: Path, ask: Any) -> None:
    with connect(f"unix://{tmp_path}/no.sock") as redis, pytest.raises(StoreUnavailable):
        ask(redis)
