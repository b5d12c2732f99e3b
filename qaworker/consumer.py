"""What qaworker adds to the consumer of a Celery worker: leases, and a pulse."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from celery import bootsteps

from qaworker import keys, logs

log = logs.get(__name__)

RENEW_S: Final = 10.0
RETRY_S: Final = 1.0
# A worker that takes nothing for a moment, until it is clear how long calls wait, loses no more.
TICK_S: Final = 0.05


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
            wait_s = RENEW_S if self.renewed() else RETRY_S

    def renewed(self) -> bool:
        """Renew now; False when that failed, which a later try makes up for."""
        try:
            self._renew()
        except Exception as error:  # noqa: BLE001, whatever a channel raises while it is replaced
            # Without this thread every message held for 40 s would be delivered again, unnoticed.
            log.warning("leases_not_renewed", error=repr(error))
            return False
        return True

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


class Pulse:
    """What the consumer's loop and the heart of this process tell each other."""

    def __init__(self) -> None:
        self.ticked_at = time.monotonic()
        """When the loop last said that it turns."""
        self.is_to_be_quiet = False
        self.is_quiet = False
        """Whether the loop takes nothing new."""
        self.admits: Callable[[], bool] = lambda: True
        """Whether this process has use for another message; a prefork parent knows no better."""


pulse = Pulse()
"""Of this process, which has one consumer."""


class PulseStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Shows that the consumer's loop turns, and lets it take nothing new while it is to be quiet.

    Celery's timer stands still while the worker connects again, and while it drains.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: Any) -> None:
        self._consumer = consumer

    def start(self, consumer: Any) -> None:
        """Begin with each connection: Celery clears its timer when one is lost."""
        self._consumer = consumer
        self.tick()
        consumer.timer.call_repeatedly(TICK_S, self.tick)

    def tick(self) -> None:
        """Say that the loop turns, and obey."""
        pulse.ticked_at = time.monotonic()
        if pulse.is_to_be_quiet and not pulse.is_quiet:
            for name in keys.QUEUES:
                self._consumer.cancel_task_queue(name)
        elif pulse.is_quiet and not pulse.is_to_be_quiet:
            for name in keys.QUEUES:
                self._consumer.add_task_queue(name)
        else:
            return
        pulse.is_quiet = pulse.is_to_be_quiet
        log.info("worker_is_quiet" if pulse.is_quiet else "worker_consumes_again")
