"""A worker process takes no message that it has no use for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Queue
from redis import Redis

from qaworker import app as app_module
from qaworker import consumer, keys, quarantine
from qaworker.app import configuration
from qaworker.consumer import Pulse
from qaworker.settings import Settings

QUEUE = Queue(keys.DEFAULT_QUEUE)


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> Pulse:
    pulse = Pulse()
    monkeypatch.setattr(consumer, "pulse", pulse)
    monkeypatch.setattr(app_module, "pulse", pulse)
    # Whether it is a task of ours is another's question.
    monkeypatch.setattr(quarantine, "check", lambda *_: None)
    return pulse


@pytest.fixture
def connection(redis_url: str) -> Iterator[Any]:
    celery = configuration(Settings(redis_url=redis_url, broker_url=""))
    with Connection(
        celery["broker_url"],
        transport=celery["broker_transport"],
        transport_options=celery["broker_transport_options"],
    ) as connection:
        yield connection


def ready(redis: Redis) -> int:
    return int(redis.llen(keys.queue(keys.DEFAULT_QUEUE)))


def unacked(redis: Redis) -> int:
    return int(redis.hlen(keys.unacked()))


def test_what_is_not_admitted_stays_in_the_queue(
    connection: Any, redis_client: Redis, pulse: Pulse
) -> None:
    taken: list[Any] = []
    is_open = False
    pulse.admits = lambda: is_open
    connection.Producer().publish({}, routing_key=QUEUE.name, declare=[QUEUE])
    with connection.Consumer([QUEUE], callbacks=[lambda _, message: taken.append(message)]):
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=1.5)
        assert (taken, ready(redis_client), unacked(redis_client)) == ([], 1, 0)
        is_open = True
        connection.drain_events(timeout=10)
        assert (len(taken), ready(redis_client), unacked(redis_client)) == (1, 0, 1)
        taken[0].ack()


def test_what_was_asked_for_before_is_taken(
    connection: Any, redis_client: Redis, pulse: Pulse
) -> None:
    """Unread it would be in no queue, and lost with the process."""
    taken: list[Any] = []
    with connection.Consumer([QUEUE], callbacks=[lambda _, message: taken.append(message)]):
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0.2)
        pulse.admits = lambda: False
        connection.Producer().publish({}, routing_key=QUEUE.name, declare=[QUEUE])
        connection.drain_events(timeout=10)
        assert (len(taken), ready(redis_client), unacked(redis_client)) == (1, 0, 1)
        taken[0].ack()
        connection.Producer().publish({}, routing_key=QUEUE.name, declare=[QUEUE])
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=1.5)
        assert (len(taken), ready(redis_client), unacked(redis_client)) == (1, 1, 0)
