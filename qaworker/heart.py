"""The heart of a worker process: its signs of life, and its end.

It beats in Redis and for systemd's watchdog while the process is well, and lets it be replaced when
it has done its share. Once the process was told to end, the heart sees to it that it does in time.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from qaworker import logs, runtime
from qaworker.consumer import pulse
from qaworker.errors import StoreUnavailable
from qaworker.holdings import holdings
from qaworker.llm import addresses
from qaworker.notify import VARIABLE as NOTIFY_SOCKET
from qaworker.notify import notify
from qaworker.settings import Settings
from qaworker.store import heartbeats
from qaworker.store.connections import check_writable, connect
from qaworker.store.heartbeats import Beat, Farewell

log = logs.get(__name__)

# Redis may be frozen: a beat must end before the next one, and before the watchdog loses patience.
REDIS_TIMEOUT_S: Final = 3.0
# Longer than Celery waits between two attempts to connect again (up to 30 s), so that a worker is
# well from the moment Redis is back.
HUNG_AFTER_S: Final = 45.0
# A task has ended when its hard limit is over; what is then left has nothing to wait for but Redis.
DRAIN_GRACE_S: Final = 10.0
END_GRACE_S: Final = 5.0
# systemd grants this much more with each beat of a worker that drains.
EXTENSION_S: Final = 15

_PAGE_MIB: Final = resource.getpagesize() / 2**20

Mark = Literal["systemd", "supervisor", "pid", "none"]


def owner() -> Mark:
    """Who owns this process, by the marks it left in the environment."""
    if "SUPERVISOR_ENABLED" in os.environ:
        return "supervisor"
    if NOTIFY_SOCKET in os.environ:
        return "systemd"
    return "pid" if "QAWORKER_INSTANCE" in os.environ else "none"


def resident_mib() -> float:
    """Resident memory of this process and its children (Linux), else its own peak.

    What a child shares with its parent counts in both.
    """
    threads = Path("/proc/self/task").glob("*/children")
    children = [pid for thread in threads for pid in _words(thread)]
    pages = [_words(Path("/proc", pid, "statm")) for pid in ("self", *children)]
    if not pages[0]:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return sum(int(resident) for _, resident, *_ in filter(None, pages)) * _PAGE_MIB


def _words(kernel_file: Path) -> list[str]:
    try:
        return kernel_file.read_text(encoding="ascii").split()
    except OSError:  # not Linux, or the thread or the process just ended
        return []


class Heart(threading.Thread):
    """Beats while a worker process lives, and ends the process when it has done its share."""

    def __init__(self, worker: str, settings: Settings) -> None:
        super().__init__(name="heart", daemon=True)
        self._worker = worker
        self._settings = settings
        self._redis = connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S)
        self._started_at = time.time()
        key = settings.openai_api_key.get_secret_value()
        self._account = addresses.account(settings.openai_base_url, key)
        self._broker = connect(settings.broker_url or settings.redis_url, timeout_s=REDIS_TIMEOUT_S)
        self._broker_away_at = time.monotonic()
        self._ending = threading.Event()
        self._draining_since: float | None = None
        self._held_before = (0, 0)
        self._has_given_up = False
        self.shutdowns_asked = 0
        self.is_worn_out = False
        """Whether it asked for the end of its process."""

    def run(self) -> None:
        """Beat until :meth:`end`."""
        try:
            heartbeats.greet(self._redis, self._worker)
        except StoreUnavailable as error:
            log.warning("heartbeat_missed", error=str(error))
        while True:
            if self._draining_since is not None:
                self._watch_the_end(time.monotonic() - self._draining_since)
            if (running := runtime.current()) is not None:
                running.engine.ping()
            self._look_for_the_broker()
            if self._is_well():
                notify("WATCHDOG=1")
                self._beat()
            else:
                # Without watchdog and beat, whoever owns this process replaces it.
                log.error("worker_hangs", for_s=round(time.monotonic() - self._well_at()))
            if not self.shutdowns_asked and (reason := self._wear()):
                self.is_worn_out = True
                log.info("worker_is_replaced", reason=reason)
                # Celery's own way to a warm shutdown: the engine drains, the process exits 0.
                os.kill(os.getpid(), signal.SIGTERM)
            if self._ending.wait(heartbeats.BEAT_INTERVAL_S):
                return

    def shutdown_asked(self) -> None:
        """Somebody, the heart or another, told this process to end."""
        self.shutdowns_asked += 1
        if self._draining_since is None:
            self._draining_since = time.monotonic()
            self._held_before = (holdings.finished, holdings.handed_back)
            notify("STOPPING=1", f"STATUS=draining, tasks: {holdings.tasks}")

    def end_now(self) -> None:
        """Hand everything back, the calls on the wire too, and end within END_GRACE_S."""
        log.warning("worker_ends_now", tasks=holdings.tasks)
        if (running := runtime.current()) is not None:
            running.engine.give_back()
        patience = threading.Timer(END_GRACE_S, _exit)
        patience.daemon = True
        patience.start()
        if not self.shutdowns_asked:
            os.kill(os.getpid(), signal.SIGTERM)

    def end(self) -> None:
        """Stop beating, and say goodbye."""
        self._ending.set()
        self.join()
        finished, handed_back = self._held_before
        farewell = Farewell(
            finished=holdings.finished - finished,
            # What is left goes back when the connection closes.
            handed_back=holdings.handed_back - handed_back + holdings.tasks,
        )
        log.info("worker_ended", **farewell.model_dump())
        try:
            heartbeats.forget(self._redis, self._worker, farewell)
        except StoreUnavailable as error:
            log.warning("heartbeat_not_withdrawn", error=str(error))
        self._redis.close()
        self._broker.close()

    def _beat(self) -> None:
        running = runtime.current()
        engine = running.engine if running is not None else None
        state = Beat(
            name=self._worker,
            pid=os.getpid(),
            owner=owner(),
            account=self._account,
            api=self._settings.openai_base_url,
            pool=self._settings.pool,
            version=version("qaworker"),
            started_at=self._started_at,
            memory_mib=round(resident_mib(), 1),
            log_level=logging.getLevelName(logging.getLogger().level).lower(),
            state=self._state(),
            tasks=holdings.tasks,
            oldest_task_s=round(holdings.oldest_s, 1),
            tasks_done=holdings.finished,
            calls_in_flight=engine.calls_in_flight if engine else 0,
            calls_waiting=engine.calls_waiting if engine else 0,
            oldest_wait_s=round(engine.oldest_wait_s, 1) if engine else 0.0,
            chunks_done=engine.chunks_done if engine else 0,
            held=str(engine.halted_by or "") if engine else "",
        )
        try:
            pulse.is_to_be_quiet = heartbeats.beat(self._redis, state)
        except StoreUnavailable as error:
            log.warning("heartbeat_missed", error=str(error))
        if self._draining_since is None:
            notify(f"STATUS={state.state}, tasks: {state.tasks}, calls: {state.calls_in_flight}")

    def _state(self) -> Literal["consuming", "quiet", "draining"]:
        if self._draining_since is not None:
            return "draining"
        return "quiet" if pulse.is_quiet else "consuming"

    def _look_for_the_broker(self) -> None:
        """See whether the loop stands still because the queue's Redis, maybe another one, is away."""
        if time.monotonic() - pulse.ticked_at < heartbeats.BEAT_INTERVAL_S:
            return
        try:
            check_writable(self._broker)
        except StoreUnavailable as error:
            self._broker_away_at = time.monotonic()
            log.warning("broker_away", error=str(error))

    def _well_at(self) -> float:
        """When this process last showed that it is well.

        Celery's loop stands still while it connects again, which is no fault of this process.
        """
        well_at = max(pulse.ticked_at, self._broker_away_at)
        if (running := runtime.current()) is not None:
            well_at = min(well_at, running.engine.answered_at)
        return well_at

    def _is_well(self) -> bool:
        # The loop stands still during a drain as well, which has a time limit of its own.
        return self._draining_since is not None or time.monotonic() - self._well_at() < HUNG_AFTER_S

    def _watch_the_end(self, draining_s: float) -> None:
        if draining_s < self._settings.task_hard_limit_s + DRAIN_GRACE_S:
            extension = f"EXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}"
            notify(extension, f"STATUS=draining, tasks: {holdings.tasks}")
        elif not self._has_given_up:
            self._has_given_up = True
            log.error("drain_takes_too_long", tasks=holdings.tasks)
            os.kill(os.getpid(), signal.SIGQUIT)

    def _wear(self) -> str:
        """Why this process should be replaced; empty while it is fit."""
        running = runtime.current()
        if running is None:  # a prefork parent: Celery replaces its children
            return ""
        if pulse.is_to_be_quiet:  # it has no share to do, and stays up
            return ""
        if running.engine.chunks_done >= self._settings.max_chunks:
            return f"{running.engine.chunks_done} chunks done"
        if (memory_mib := resident_mib()) > self._settings.max_memory_mb:
            return f"{memory_mib:.0f} MiB resident"
        return ""


def _exit() -> None:
    # What this process holds is delivered again when its leases end.
    log.error("worker_gives_up", tasks=holdings.tasks)
    os._exit(1)


_heart: Heart | None = None
_was_asked_early = False


def start(worker: str, settings: Settings) -> None:
    """Let this worker process, which consumes now, beat; after a reconnect this does nothing."""
    global _heart  # noqa: PLW0603, a process has one heart
    if _heart is None:
        _heart = Heart(worker, settings)
        notify("READY=1")
        if _was_asked_early:
            _heart.shutdown_asked()
        _heart.start()


def stop() -> None:
    """End the heart, if it beats."""
    if _heart is not None:
        _heart.end()


def shutdown_asked() -> None:
    """Somebody, the heart or another, told this process to end."""
    global _was_asked_early  # noqa: PLW0603, as above
    if _heart is None:
        _was_asked_early = True
    else:
        _heart.shutdown_asked()


def end_now(*_: object) -> None:
    """Answer to a signal: see :meth:`Heart.end_now`."""
    # In a thread: what the signal interrupted may hold the lock of the log.
    if _heart is not None:
        threading.Thread(target=_heart.end_now, name="end", daemon=True).start()


def is_to_be_replaced() -> bool:
    """Whether this process ends because its heart asked, and nobody else did."""
    return _heart is not None and _heart.is_worn_out and _heart.shutdowns_asked == 1
