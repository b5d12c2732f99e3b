"""The Celery application, and everything about Celery and kombu that is not obvious.

``celery -A qaworker.app inspect active|stats|ping`` works on running workers.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from queue import Empty
from typing import Any, Final

from celery import Celery, bootsteps
from celery.app import defaults
from celery.exceptions import Reject
from celery.signals import before_task_publish, setup_logging
from kombu import Queue
from kombu.transport import redis as kombu_redis
from redis.exceptions import RedisError

from qaworker import keys, logs, settings
from qaworker.errors import ConfigError
from qaworker.settings import Settings

log = logs.get(__name__)

VISIBILITY_TIMEOUT_S: Final = 40
RENEW_S: Final = 10.0
RETRY_S: Final = 1.0
# A chunk's prefork child that its own deadlines could not end is killed this much later.
PREFORK_GRACE_S: Final = 30.0
PREFORK_TASKS_PER_CHILD: Final = 50

RUN_HEADER: Final = "qaworker_run"
SENT_HEADER: Final = "qaworker_sent_at"


def broker_url(redis_url: str) -> str:
    """What kombu calls a Redis URL: sockets have another scheme there."""
    if not redis_url.startswith("unix://"):
        return redis_url
    path, _, query = redis_url.removeprefix("unix://").partition("?")
    database = dict(part.partition("=")[::2] for part in query.split("&")).get("db", "0")
    return f"redis+socket://{path}?virtual_host={database}"


def configuration(values: Settings) -> dict[str, Any]:
    """Celery's settings.

    Raises:
        ConfigError: Celery does not know one of them, and would have ignored it.
    """
    socket = {"socket_timeout": 30, "socket_connect_timeout": 5, "socket_keepalive": True}
    celery: dict[str, Any] = {
        "broker_url": broker_url(values.broker_url or values.redis_url),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Redis out of memory is a channel error, and passes.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            **socket,
            "global_keyprefix": keys.PREFIX,
            # High priority first, as ordered in `task_queues`; kombu's default takes turns.
            "queue_order_strategy": "priority",
            "visibility_timeout": VISIBILITY_TIMEOUT_S,
            "unacked_mutex_expire": 30,
            "unacked_restore_interval": 5,
        },
        "include": ["qaworker.tasks"],
        "task_queues": [Queue(name) for name in keys.QUEUES],
        # A mistyped queue would be made, and nobody would consume it.
        "task_create_missing_queues": False,
        "task_default_queue": keys.DEFAULT_QUEUE,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # Reduced after each reconnect, it would leave slots empty.
        "worker_enable_prefetch_count_reduction": False,
        "worker_pool": values.pool,
        "worker_concurrency": values.threads,
    }
    if values.pool == "prefork":
        celery |= {
            "worker_concurrency": values.prefork_children,
            "worker_max_tasks_per_child": PREFORK_TASKS_PER_CHILD,
            "task_time_limit": values.task_hard_limit_s + PREFORK_GRACE_S,
        }
    if unknown := sorted(set(celery) - set(defaults.SETTING_KEYS)):
        raise ConfigError(f"Celery does not know the setting {unknown[0]}")
    return celery


class Channel(kombu_redis.Channel):  # type: ignore[misc]  # kombu has no types
    """Kombu's channel, which also closes when Redis went away while it waited for a message.

    Kombu reads the outstanding BRPOP first. Where that fails the channel stays half closed, and a
    worker that holds messages ends with an AttributeError instead of connecting again.
    """

    def close(self) -> None:
        """Give the outstanding BRPOP up, then close."""
        if self._in_poll:
            with suppress(Empty, *self.connection_errors):
                self._brpop_read()
        super().close()


kombu_redis.Transport.Channel = Channel


class Leases(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Renews the visibility of the messages this worker holds, so that a slow task runs once.

    In a thread, because Celery's own timer stands still during a warm shutdown and a reconnect,
    which is when the last calls end.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._ending = threading.Event()
        self._consumer = consumer
        self._thread: threading.Thread | None = None

    def start(self, consumer: Any) -> None:
        """Begin with the first connection; the thread outlives reconnects."""
        self._consumer = consumer
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        wait_s = RENEW_S
        while not self._ending.wait(wait_s):
            try:
                self._renew()
                wait_s = RENEW_S
            except (RedisError, OSError) as error:
                log.warning("leases_not_renewed", error=str(error))
                wait_s = RETRY_S

    def _renew(self) -> None:
        task_consumer = self._consumer.task_consumer
        if task_consumer is None:  # between two connections
            return
        channel = task_consumer.channel
        now = time.time()
        tags = dict.fromkeys(list(channel.qos._delivered), now)  # noqa: SLF001, kombu has no public way
        if tags:
            with channel.conn_or_acquire() as client:
                client.zadd(channel.unacked_index_key, tags, xx=True)


@before_task_publish.connect
def stamp(headers: dict[str, Any], **_: Any) -> None:
    """Say when a message was sent: Celery does not, and the queue's age is read from it."""
    headers.setdefault(SENT_HEADER, time.time())


@setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Celery configures logging unless somebody answers this signal; ``logs`` has done it."""


def is_news(record: logging.LogRecord) -> bool:
    """False for the traceback Celery logs when a task is handed back, which a line of ours tells."""
    return not (record.exc_info and isinstance(record.exc_info[1], Reject))


logging.getLogger("celery.app.trace").addFilter(is_news)
app = Celery("qaworker", set_as_current=False)
app.add_defaults(lambda: configuration(settings.load()))
app.steps["consumer"].add(Leases)
