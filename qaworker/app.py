"""The Celery application, and everything about Celery and kombu that is not obvious.

``celery -A qaworker.app inspect active|stats|ping`` works on running workers.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from celery import Celery
from celery.app import defaults
from celery.app.log import Logging
from celery.exceptions import Reject
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str

from qaworker import keys, logs, quarantine, settings
from qaworker.consumer import Leases, PulseStep, pulse
from qaworker.errors import ConfigError, MessageInvalid, StoreUnavailable
from qaworker.settings import Settings

log = logs.get(__name__)

VISIBILITY_TIMEOUT_S: Final = 40
# A chunk's prefork child that its own deadlines could not end is killed this much later.
PREFORK_GRACE_S: Final = 5.0
PREFORK_TASKS_PER_CHILD: Final = 50
QUARANTINE_RETRY_S: Final = 1.0

RUN_HEADER: Final = "qaworker_run"
SENT_HEADER: Final = "qaworker_sent_at"
BUDGET_HEADER: Final = "qaworker_budget"
"""True when the run has a budget: also one that Redis has lost is not to be exceeded."""

TRANSPORT: Final = "qaworker"
# What kombu reads in the query of an address, besides `ssl_…`.
_QUERY: Final = frozenset({"db", "username", "password"})


def broker_url(redis_url: str) -> str:
    """What kombu calls a Redis address, which it reads in another way than redis-py.

    Raises:
        ConfigError: kombu has no way to say the same.
    """
    address = urlsplit(redis_url)
    correct = "correct REDIS_URL or CELERY_BROKER_URL"
    if address.scheme not in {"redis", "rediss", "unix"}:
        raise ConfigError(f"the queue needs redis://, rediss:// or unix://: {correct}")
    query = dict(parse_qsl(address.query))
    tls = {name: value for name, value in query.items() if name.startswith("ssl_")}
    if unknown := sorted(query.keys() - tls.keys() - _QUERY):
        raise ConfigError(f"the queue's address cannot have {unknown[0]} in its query: {correct}")
    is_socket = address.scheme == "unix"
    database = query.get("db") or ("" if is_socket else address.path.strip("/")) or "0"
    if not database.isdecimal():
        raise ConfigError(f"a Redis database is a number, not {database}: {correct}")
    login, at, server = address.netloc.rpartition("@")
    if not at and (query.keys() & {"username", "password"}):
        names = (query.get("username", ""), query.get("password", ""))
        login, at = ":".join(quote(name, safe="") for name in names), "@"
    if is_socket:
        return f"{TRANSPORT}+socket://{login}{at}{address.path}?virtual_host={database}"
    more = f"?{urlencode(tls)}" if tls else ""
    return f"{address.scheme}://{login}{at}{server}/{database}{more}"


def configuration(values: Settings) -> dict[str, Any]:
    """Celery's settings.

    Raises:
        ConfigError: Celery does not know one of them, and would have ignored it.
    """
    socket = {"socket_timeout": 30, "socket_connect_timeout": 5, "socket_keepalive": True}
    broker = broker_url(values.broker_url or values.redis_url)
    celery: dict[str, Any] = {
        "broker_url": broker,
        "broker_transport": TRANSPORT,
        # kombu's default believes every certificate; `ssl_…` in the address goes before this.
        "broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        if broker.startswith("rediss://")
        else None,
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
            # A sweep for the messages of dead workers every 5 s; kombu's default leaves nine of ten out.
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
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


class Unreadable(Exception):
    """A message was taken from a queue that no worker can read."""

    def __init__(self, place: str, raw: bytes) -> None:
        super().__init__(place, raw)
        self.place = place
        """The list it was taken from, without the prefix."""
        self.raw = raw


def _queue_of(place: bytes | str) -> str:
    """The queue that a list belongs to: there is one for each priority."""
    queue: str = bytes_to_str(place).partition(kombu_redis.Channel.sep)[0]
    return queue


class Client(kombu_redis.PrefixedStrictRedis):  # type: ignore[misc]  # kombu has no types
    """Kombu's client, which looks at a message before kombu and Celery trust it."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """What Redis answers; raises Unreadable for a message that is none."""
        answer = super().parse_response(connection, command_name, **options)
        if command_name == "BRPOP" and answer and _queue_of(answer[0]) in keys.QUEUES:
            place, raw = answer
            try:
                quarantine.check(raw, app.tasks)
            except MessageInvalid as error:
                raise Unreadable(bytes_to_str(place), raw) from error
        return answer


class Channel(kombu_redis.Channel):  # type: ignore[misc]  # kombu has no types
    """Kombu's channel, which takes no more than is of use, and survives what it cannot read.

    Its messages can be counted by queue also while workers hold them.
    """

    _spare: Any = None
    """A client that commands share."""

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """A client, made once for each pool: kombu makes one, with a table of 300 entries, each time."""
        if not client and (self._spare is None or self._spare.connection_pool is not self.pool):
            self._spare = self._create_client()
        yield client or self._spare

    def _get_client(self) -> Any:
        return partial(Client, global_keyprefix=self.global_keyprefix)

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for a message, unless this process has no use for one.

        Kombu tries again whenever the consumer's loop turns, which the pulse sees to. A message
        that was asked for is taken: left unread, it would be in no queue and nobody's.
        """
        if pulse.admits():
            super()._brpop_start(timeout)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except Unreadable as unreadable:
            self._put_aside(unreadable)
            raise Empty from unreadable

    def _put_aside(self, unreadable: Unreadable) -> None:
        place, raw = unreadable.place, unreadable.raw
        try:
            quarantine.put_aside(raw, _queue_of(place), str(unreadable.__cause__))
        except StoreUnavailable as error:
            with self.conn_or_acquire() as client:
                client.rpush(place, raw)
            log.warning("message_waits_for_redis", error=str(error))
            # It is read again at once; without that Redis there is no other work either.
            time.sleep(QUARANTINE_RETRY_S)

    def _inplace_augment_message(self, message: Any, exchange: str, routing_key: str) -> None:
        """Begin the delivery tag with the queue, which else stands after 30 KB of text alone."""
        super()._inplace_augment_message(message, exchange, routing_key)
        properties = message["properties"]
        properties["delivery_tag"] = f"{routing_key}:{properties['delivery_tag']}"

    def close(self) -> None:
        """Give the outstanding BRPOP up, then close.

        Kombu reads it first. Where that fails because Redis went away, the channel stays half
        closed, and a worker that holds messages ends with an AttributeError instead of connecting
        again.
        """
        if self._in_poll:
            with suppress(Empty, *self.connection_errors):
                self._brpop_read()
        super().close()


class Transport(kombu_redis.Transport):  # type: ignore[misc]  # kombu has no types
    """Kombu's transport with our channel, for this application alone."""

    Channel = Channel


# An address can name a transport by its alias only.
TRANSPORT_ALIASES[TRANSPORT] = f"{__name__}:Transport"


def is_news(record: logging.LogRecord) -> bool:
    """False for the traceback Celery logs when a task is handed back, which a line of ours tells."""
    return not (record.exc_info and isinstance(record.exc_info[1], Reject))


class WorkerLogging(Logging):  # type: ignore[misc]  # celery has no types
    """Leaves logging as ``logs`` configured it; Celery asks for it in worker processes alone."""

    def setup_logging_subsystem(self, *_: Any, **__: Any) -> bool:
        """Answer that it is done."""
        logging.getLogger("celery.app.trace").addFilter(is_news)
        return True


class Application(Celery):  # type: ignore[misc]  # celery has no types
    """Reads its settings from ``settings`` alone.

    Celery prefers CELERY_BROKER_URL and its like in the environment to what it was configured with,
    and kombu reads a Redis address in another way than we do.
    """

    backend_cls = "disabled"

    def connection_for_read(self, url: str | None = None, **options: Any) -> Any:
        """Celery's, with our address."""
        return super().connection_for_read(url or self.conf["broker_url"], **options)

    def connection_for_write(self, url: str | None = None, **options: Any) -> Any:
        """Celery's, with our address."""
        return super().connection_for_write(url or self.conf["broker_url"], **options)


app = Application("qaworker", set_as_current=False, log=WorkerLogging)
app.add_defaults(lambda: configuration(settings.load()))
app.steps["consumer"] |= {Leases, PulseStep}
