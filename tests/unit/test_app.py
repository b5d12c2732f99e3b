from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, Self

import pytest
from celery.app import defaults
from celery.signals import before_task_publish
from kombu import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from qaworker import app as app_module
from qaworker import keys
from qaworker.app import SENT_HEADER, Leases, app, broker_url, configuration, stamp
from qaworker.errors import ConfigError
from qaworker.settings import Settings
from tests.support.waiting import wait_until

WAIT_S = 10.0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("rediss://:pass@host:6380/2", "rediss://:pass@host:6380/2"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix:///srv/qa worker.sock", "redis+socket:///srv/qa worker.sock?virtual_host=0"),
    ],
)
def test_a_socket_has_another_scheme_for_kombu(given: str, expected: str) -> None:
    assert broker_url(given) == expected


def test_the_queue_may_have_a_redis_of_its_own() -> None:
    values = Settings(redis_url="redis://a/0", broker_url="unix:///b.sock")
    assert configuration(values)["broker_url"] == "redis+socket:///b.sock?virtual_host=0"
    values = Settings(redis_url="redis://a/0", broker_url="")
    assert configuration(values)["broker_url"] == "redis://a/0"


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_celery_knows_every_setting(pool: Any) -> None:
    assert set(configuration(Settings(pool=pool))) <= set(defaults.SETTING_KEYS)


def test_a_setting_that_celery_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    known = defaults.SETTING_KEYS - {"task_acks_late"}
    monkeypatch.setattr(defaults, "SETTING_KEYS", known)
    with pytest.raises(ConfigError, match="Celery does not know the setting task_acks_late"):
        configuration(Settings())


def test_queues_are_consumed_in_their_order() -> None:
    celery = configuration(Settings())
    assert [queue.name for queue in celery["task_queues"]] == list(keys.QUEUES)
    assert celery["broker_transport_options"]["queue_order_strategy"] == "priority"
    assert celery["task_default_queue"] == "qa_generation"
    assert celery["task_create_missing_queues"] is False


def test_no_message_is_acknowledged_before_its_task_ended() -> None:
    celery = configuration(Settings())
    assert celery["task_acks_late"]
    assert celery["task_reject_on_worker_lost"]
    assert celery["worker_prefetch_multiplier"] == 1
    assert celery["accept_content"] == ["json"]


def test_each_pool_has_its_size_and_limits() -> None:
    threads = configuration(Settings(threads=7))
    prefork = configuration(Settings(pool="prefork", prefork_children=3, task_hard_limit_s=400))
    assert (threads["worker_concurrency"], prefork["worker_concurrency"]) == (7, 3)
    assert "task_time_limit" not in threads
    assert prefork["task_time_limit"] > 400
    assert prefork["worker_max_tasks_per_child"] == 50


def test_a_claim_lasts_as_long_as_a_message_is_invisible() -> None:
    """Else a redelivered message would find the claim of the dead, or none of the living."""
    from qaworker.store.outcomes import CLAIM_TTL

    options = configuration(Settings())["broker_transport_options"]
    assert options["visibility_timeout"] == CLAIM_TTL.total_seconds()
    assert options["visibility_timeout"] / app_module.RENEW_S >= 4


def test_kombu_still_has_the_private_parts_that_leases_use() -> None:
    """kombu has no public way to the deliveries a channel holds; see ``Leases``."""
    from kombu.transport.redis import Channel, QoS

    assert Channel.QoS is QoS
    assert isinstance(Channel.unacked_index_key, str)
    assert callable(Channel.conn_or_acquire)
    with Connection("memory://") as connection, connection.channel() as channel:
        assert isinstance(channel.qos._delivered, dict)
    assert "global_keyprefix" in Channel.from_transport_options


def test_every_message_says_when_it_was_sent() -> None:
    before_s = time.time()
    headers: dict[str, Any] = {}
    stamp(headers)
    assert before_s <= headers[SENT_HEADER] <= time.time()
    assert any(receiver[1]() is stamp for receiver in before_task_publish.receivers)


def test_a_stamp_that_is_there_stays() -> None:
    headers = {SENT_HEADER: 1.0}
    stamp(headers)
    assert headers[SENT_HEADER] == 1.0


def test_workers_take_the_leases_with_them() -> None:
    assert Leases in app.steps["consumer"]


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
    monkeypatch.setattr(app_module, "RENEW_S", 0.01)
    monkeypatch.setattr(app_module, "RETRY_S", 0.01)
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
