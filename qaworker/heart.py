"""The heart of a worker process: its signs of life, and its end when it has done its share."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time

from qaworker import logs, runtime
from qaworker.errors import StoreUnavailable
from qaworker.settings import Settings
from qaworker.store import heartbeats
from qaworker.store.connections import connect
from qaworker.store.heartbeats import Beat

log = logs.get(__name__)


def resident_mib() -> float:
    """Resident memory of this process (Linux), else its peak."""
    try:
        with open("/proc/self/statm") as statm:  # noqa: PTH123, a kernel file, read every 5 s
            pages = int(statm.read().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return pages * resource.getpagesize() / 2**20


class Heart(threading.Thread):
    """Beats while a worker process lives, and ends the process when it has done its share."""

    def __init__(self, worker: str, settings: Settings) -> None:
        super().__init__(name="heart", daemon=True)
        self._worker = worker
        self._settings = settings
        self._redis = connect(settings.redis_url)
        self._started_at = time.time()
        self._ending = threading.Event()
        self.is_worn_out = False
        """Whether it asked for the end of its process."""

    def run(self) -> None:
        """Beat until :meth:`end`."""
        while True:
            self._beat()
            if not _shutdowns_asked and not self.is_worn_out and (reason := self._wear()):
                self.is_worn_out = True
                log.info("worker_is_replaced", reason=reason)
                # Celery's own way to a warm shutdown: the engine drains, the process exits 0.
                os.kill(os.getpid(), signal.SIGTERM)
            if self._ending.wait(heartbeats.BEAT_INTERVAL_S):
                return

    def end(self) -> None:
        """Stop beating and withdraw the last sign of life."""
        self._ending.set()
        self.join()
        try:
            heartbeats.forget(self._redis, self._worker)
        except StoreUnavailable as error:
            log.warning("heartbeat_not_withdrawn", error=str(error))
        self._redis.close()

    def _beat(self) -> None:
        running = runtime.current()
        engine = running.engine if running is not None else None
        state = Beat(
            name=self._worker,
            pid=os.getpid(),
            pool=self._settings.pool,
            started_at=self._started_at,
            calls_in_flight=engine.calls_in_flight if engine else 0,
            chunks_done=engine.chunks_done if engine else 0,
            held=str(engine.halted_by or "") if engine else "",
        )
        try:
            heartbeats.beat(self._redis, state)
        except StoreUnavailable as error:
            log.warning("heartbeat_missed", error=str(error))

    def _wear(self) -> str:
        """Why this process should be replaced; empty while it is fit."""
        running = runtime.current()
        if running is None:  # a prefork parent: Celery replaces its children
            return ""
        if running.engine.chunks_done >= self._settings.max_chunks:
            return f"{running.engine.chunks_done} chunks done"
        if (memory_mib := resident_mib()) > self._settings.max_memory_mb:
            return f"{memory_mib:.0f} MiB resident"
        return ""


_heart: Heart | None = None
_shutdowns_asked = 0


def start(worker: str, settings: Settings) -> None:
    """Let this worker process beat; after a reconnect this does nothing."""
    global _heart  # noqa: PLW0603, a process has one heart
    if _heart is None:
        _heart = Heart(worker, settings)
        _heart.start()


def stop() -> None:
    """End the heart, if it beats."""
    if _heart is not None:
        _heart.end()


def shutdown_asked() -> None:
    """Count that somebody, the heart or another, told this process to end."""
    global _shutdowns_asked  # noqa: PLW0603, as above
    _shutdowns_asked += 1


def is_to_be_replaced() -> bool:
    """Whether this process ends because its heart asked, and nobody else did."""
    return _heart is not None and _heart.is_worn_out and _shutdowns_asked == 1
