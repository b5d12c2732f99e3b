"""The transport, between a real Redis and Celery, when it reads what is no message."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis import Redis

from qaworker import app as app_module
from qaworker import keys
from qaworker.app import app
from qaworker.client.senders import publish
from qaworker.engine.batches import parse_batch
from qaworker.store.dead_letters import UNREADABLE, DeadLetters, Selection

pytestmark = pytest.mark.usefixtures("client_env")

QUEUE = keys.DEFAULT_QUEUE
GARBAGE = (b"{", b"\xff\x00", b"[" * 100_000)
WAIT_S = 5.0


class Consumed:
    """Reads from the queue as a worker's main process does."""

    def __init__(self, connection: Any) -> None:
        self.tasks: list[str] = []
        self._connection = connection
        queues = [app.amqp.queues[name] for name in keys.QUEUES]
        consumer = connection.Consumer(queues, accept=["json"], on_message=self._on_message)
        consumer.consume()

    def _on_message(self, message: Any) -> None:
        self.tasks.append(message.headers["task"])
        message.ack()

    def read(self, messages: int) -> None:
        """Read until there were so many that can be read."""
        while len(self.tasks) < messages:
            self._connection.drain_events(timeout=WAIT_S)


@pytest.fixture
def consumed(redis_url: str) -> Iterator[Consumed]:
    del redis_url  # emptied before the consumer binds its queues in it
    import qaworker.tasks  # noqa: F401, as a worker does

    with app.connection_for_read() as connection:
        yield Consumed(connection)


def send(text: str) -> None:
    publish(parse_batch([{"chunk_id": "c", "text": text}], {}, "gpt-5-mini"), QUEUE, 1.0)


def test_what_cannot_be_read_is_kept_and_the_rest_goes_on(
    consumed: Consumed, redis_client: Any
) -> None:
    redis_client.lpush(keys.queue(QUEUE), *GARBAGE)
    redis_client.lpush(keys.queue("high_priority"), b"42")
    send("The weir. 堰。")
    consumed.read(1)
    letters = list(DeadLetters(redis_client).find(Selection()))
    assert {letter.raw for letter in letters} == {*GARBAGE, b"42"}
    assert {letter.reason for letter in letters} == {UNREADABLE}
    assert {letter.queue for letter in letters} == {QUEUE, "high_priority"}
    assert all(letter.detail and letter.run_id == "" for letter in letters)
    assert not redis_client.exists(keys.queue(QUEUE), keys.unacked())


def test_while_it_cannot_be_kept_it_stays_in_the_queue(
    consumed: Consumed,
    redis_client: Redis,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where outcomes have a Redis of their own, which is away."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            monkeypatch.setenv("REDIS_URL", redis_url)

    monkeypatch.setattr(app_module, "time", SimpleNamespace(sleep=wait))
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/no.sock")
    redis_client.lpush(keys.queue(QUEUE), GARBAGE[0])
    send("The weir. 堰。")
    consumed.read(1)
    assert waits == [app_module.QUARANTINE_RETRY_S] * 2
    [letter] = DeadLetters(redis_client).find(Selection())
    assert letter.raw == GARBAGE[0]
