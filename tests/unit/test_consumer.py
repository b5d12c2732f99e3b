"""What qaworker adds to Celery's consumer."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Self

import pytest
from kombu import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from qaworker import consumer as consumer_module
from qaworker import keys
from qaworker.app import app
from qaworker.consumer import Leases, Pulse, PulseStep
from tests.support.waiting import wait_until

WAIT_S = 10.0


def test_kombu_still_has_the_private_parts_that_leases_use() -> None:
    """kombu has no public way to the deliveries a channel holds; see ``Leases``."""
    from kombu.transport.redis import Channel, QoS

    assert Channel.QoS is QoS
    assert isinstance(Channel.unacked_index_key, str)
    assert callable(Channel.conn_or_acquire)
    with Connection("memory://") as connection, connection.channel() as channel:
        assert isinstance(channel.qos._delivered, dict)
    assert "global_keyprefix" in Channel.from_transport_options


def test_workers_take_leases_and_pulse_with_them() -> None:
    assert {Leases, PulseStep} <= app.steps["consumer"]


class Channel:
    """What leases need of kombu's channel; its Redis is away for the first renewal."""

    unacked_index_key = "unacked_index"

    def __init__(self) -> None:
        self.qos = SimpleNamespace(_delivered={"tag-1": object(), "tag-2": object()})
        self.renewed: list[tuple[str, set[str], bool]] = []
        self.is_away = True

    def conn_or_acquire(self) -> Channel:
        return self

    def __enter__(self) -> Self:
        if self.is_away:
            self.is_away = False
            raise RedisConnectionError("away")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def zadd(self, key: str, tags: dict[str, float], *, xx: bool) -> None:
        self.renewed.append((key, set(tags), xx))


def test_leases_renew_what_the_worker_holds_also_after_redis_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(consumer_module, "RENEW_S", 0.01)
    monkeypatch.setattr(consumer_module, "RETRY_S", 0.01)
    channel = Channel()
    consumer = SimpleNamespace(task_consumer=None)
    leases = Leases(consumer)
    try:
        leases.start(consumer)
        thread = leases._thread
        leases.start(SimpleNamespace(task_consumer=SimpleNamespace(channel=channel)))
        assert leases._thread is thread
        wait_until(lambda: len(channel.renewed) >= 2, WAIT_S, "two renewals")
    finally:
        leases._ending.set()
    assert thread is not None
    thread.join(WAIT_S)
    assert channel.renewed[0] == ("unacked_index", {"tag-1", "tag-2"}, True)


@pytest.mark.parametrize("error", [ConnectionError(), AttributeError("a channel half closed")])
def test_what_a_channel_raises_does_not_end_the_renewal(error: Exception) -> None:
    class Consumer:
        task_consumer: object = None

    consumer = Consumer()
    leases = Leases(consumer)
    assert leases.renewed()

    class Closing:
        @property
        def channel(self) -> object:
            raise error

    consumer.task_consumer = Closing()
    assert not leases.renewed()


class Consumer:
    """What the pulse needs of Celery's consumer."""

    def __init__(self) -> None:
        self.timer = self
        self.taken: list[str] = list(keys.QUEUES)
        self.ticks: list[float] = []

    def call_repeatedly(self, every_s: float, _tick: object) -> None:
        self.ticks.append(every_s)

    def cancel_task_queue(self, name: str) -> None:
        self.taken.remove(name)

    def add_task_queue(self, name: str) -> None:
        self.taken.append(name)


def test_a_quiet_worker_takes_nothing_until_it_is_to_resume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulse = Pulse()
    monkeypatch.setattr(consumer_module, "pulse", pulse)
    consumer = Consumer()
    step = PulseStep(consumer)
    step.start(consumer)
    assert consumer.ticks == [consumer_module.TICK_S]
    for is_to_be_quiet, taken in ((True, []), (True, []), (False, list(keys.QUEUES))):
        pulse.is_to_be_quiet = is_to_be_quiet
        step.tick()
        assert consumer.taken == taken
        assert pulse.is_quiet == is_to_be_quiet
    assert pulse.ticked_at == pytest.approx(time.monotonic(), abs=5)
