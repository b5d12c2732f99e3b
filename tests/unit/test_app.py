from __future__ import annotations

import logging
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery.app import defaults
from kombu import Connection
from kombu.transport import redis as kombu_redis

from qaworker import app as app_module
from qaworker import keys
from qaworker.app import app, broker_url, configuration
from qaworker.consumer import RENEW_S
from qaworker.errors import ConfigError
from qaworker.settings import Settings
from tests.support.processes import ROOT, child_environment

WAIT_S = 10.0


SOCKET = "qaworker+socket://"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://127.0.0.1", "redis://127.0.0.1/0"),
        ("redis://127.0.0.1:6379?db=2", "redis://127.0.0.1:6379/2"),
        ("redis://h/1?username=u&password=p%40", "redis://u:p%40@h/1"),
        ("rediss://:pass@host:6380/2", "rediss://:pass@host:6380/2"),
        ("rediss://h/0?ssl_cert_reqs=none", "rediss://h/0?ssl_cert_reqs=none"),
        ("unix:///run/redis.sock", f"{SOCKET}/run/redis.sock?virtual_host=0"),
        ("unix:///run/redis.sock?db=3", f"{SOCKET}/run/redis.sock?virtual_host=3"),
        ("unix://u:p%40@/run/r.sock?db=3", f"{SOCKET}u:p%40@/run/r.sock?virtual_host=3"),
        ("unix:///r.sock?password=p%40", f"{SOCKET}:p%40@/r.sock?virtual_host=0"),
        ("unix:///srv/qa worker.sock", f"{SOCKET}/srv/qa worker.sock?virtual_host=0"),
    ],
)
def test_kombu_has_other_addresses(given: str, expected: str) -> None:
    assert broker_url(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("localhost:6379", "the queue needs redis://, rediss:// or unix://"),
        ("redis://:secret@h/0?socket_timeout=5", "cannot have socket_timeout in its query"),
        ("unix:///r.sock?protocol=3", "cannot have protocol in its query"),
        ("redis://:secret@h/first", "a Redis database is a number, not first"),
    ],
)
def test_what_kombu_cannot_be_told_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        broker_url(given)
    assert str(caught.value).endswith(": correct REDIS_URL or CELERY_BROKER_URL")
    assert "secret" not in str(caught.value)


def connection_parameters(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What kombu would give to redis-py, without a server."""
    celery = configuration(Settings(redis_url=redis_url, broker_url=""))
    connection = Connection(
        celery["broker_url"],
        transport=celery["broker_transport"],
        ssl=celery["broker_use_ssl"],
        transport_options=celery["broker_transport_options"],
    )
    monkeypatch.setattr(kombu_redis.redis.Redis, "ping", lambda _: True)
    with connection, connection.channel() as channel:
        assert type(channel) is app_module.Channel
        assert channel.unacked_restore_interval == 5
        assert channel.unacked_restore_throttle == 1
        parameters: dict[str, Any] = channel._connparams()
        return parameters


@pytest.mark.parametrize(
    ("redis_url", "expected"),
    [
        ("redis://u:p%40@h:1/2", {"host": "h", "port": 1, "db": 2, "username": "u"}),
        ("unix://u:p%40@/r.sock?db=2", {"path": "/r.sock", "db": 2, "username": "u"}),
        ("rediss://:p%40@h/2", {"host": "h", "db": 2, "ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("rediss://:p%40@h/2?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
    ],
)
def test_every_address_reaches_the_connection_of_our_own_channel(
    redis_url: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Swept for the messages of dead workers every 5 s; certificates are checked."""
    parameters = connection_parameters(redis_url, monkeypatch)
    assert {name: parameters[name] for name in expected} == expected
    assert parameters["password"] == "p@"
    is_tls = issubclass(parameters["connection_class"], kombu_redis.redis.SSLConnection)
    assert is_tls == redis_url.startswith("rediss://")


def test_the_queue_may_have_a_redis_of_its_own() -> None:
    values = Settings(redis_url="redis://a/0", broker_url="unix:///b.sock")
    assert configuration(values)["broker_url"] == f"{SOCKET}/b.sock?virtual_host=0"
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
    assert options["visibility_timeout"] / RENEW_S >= 4


HOST_APPLICATION = """
import logging
from celery import Celery, signals
from kombu.transport import redis
channel = redis.Transport.Channel
host = Celery("host", broker="memory://")
import qaworker.client.collecting, qaworker.tasks
assert redis.Transport.Channel is channel
assert not signals.setup_logging.receivers
assert not signals.before_task_publish.receivers
assert not logging.getLogger("celery.app.trace").filters
host.log.setup(loglevel="INFO")
assert logging.getLogger().handlers
class Worker:
    app = host
    hostname = "host"
signals.worker_ready.send(sender=Worker())
from qaworker import heart
assert heart._heart is None
"""


def test_another_application_of_the_process_stays_as_it_is(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", HOST_APPLICATION],
        env=child_environment(tmp_path),
        cwd=ROOT,
        timeout=60,
        check=True,
    )


def test_a_worker_logs_as_it_was_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = logging.getLogger("celery.app.trace")
    monkeypatch.setattr(trace, "filters", [])
    before = list(logging.getLogger().handlers)
    assert app.log.setup_logging_subsystem(loglevel="DEBUG")
    assert logging.getLogger().handlers == before
    assert trace.filters == [app_module.is_news]
