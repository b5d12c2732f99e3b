"""What is running, as one picture: the workers, and what they amount to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, Literal

from qaworker.limits.states import LimiterState
from qaworker.store.holds import Hold
from qaworker.store.overview import Queue

State = Literal["running", "degraded", "stopped", "unknown"]

RECENTLY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process, as its owner and its last heartbeat tell."""

    name: str
    host: str
    number: int
    pid: int
    """0 while there is none."""
    owner: str
    state: str
    """``consuming``, ``quiet`` or ``draining`` as it says itself, ``silent`` when its heartbeat is
    overdue, ``gone`` when its process is not there any more either; else what its owner says:
    ``running``, ``starting``, ``stopping``, ``stopped`` or ``failed``."""
    uptime_s: float | None = None
    """None, like the next two, for one that has not beaten yet."""
    memory_mib: float | None = None
    heartbeat_age_s: float | None = None
    tasks: int = 0
    oldest_task_s: float = 0.0
    calls_in_flight: int | None = 0
    """None where nobody knows: a prefork pool's children make their calls by themselves."""
    calls_waiting: int = 0
    """For the limiter, or for a free slot."""
    oldest_wait_s: float = 0.0
    tasks_done: int = 0
    chunks_done: int = 0
    log_level: str = ""
    held: str = ""
    """Why it calls nobody, or not every model."""
    account: str = ""
    """Whose calls it makes, as holds and limiters name it."""
    exit_code: int | None = None
    """How it failed, where its owner knows; negative for the signal that ended it."""

    @property
    def is_living(self) -> bool:
        """Whether it beats."""
        return self.state in {"consuming", "quiet", "draining"}


@dataclass(frozen=True, slots=True)
class Shared:
    """What all hosts share: what is held, how fast calls may be made, and how many chunks died."""

    asked_at: float = 0.0
    """Seconds since the epoch by the clock of Redis, like every moment in here."""
    holds: Sequence[Hold] = ()
    limiters: Sequence[LimiterState] = ()
    dead_letters: int = 0
    dead_recently: int = 0
    """Those of RECENTLY."""

    def account_holds(self, workers: Sequence[Worker]) -> list[Hold]:
        """Those because of which some of these workers call nobody."""
        accounts = {worker.account for worker in workers if worker.is_living}
        return [one for one in self.holds if one.kind == "account" and one.account in accounts]


@dataclass(frozen=True, slots=True)
class Status:
    """What is running on this host, and what is known of the others."""

    host: str
    owner: str | None
    """Who owns this host's workers; None while nobody does."""
    expected: int
    """How many workers are to run here."""
    recorded: int | None
    """What the last start or stop here left in Redis; None while that is not known."""
    workers: Sequence[Worker]
    elsewhere: Sequence[Worker] = ()
    expected_elsewhere: dict[str, int] = field(default_factory=dict)
    queues: Sequence[Queue] = ()
    shared: Shared = Shared()
    latency_ms: float | None = None
    """None while Redis is away."""
    redis_error: str = ""
    owner_error: str = ""
    """Why the owner does not say what it runs."""
    log_lines: Sequence[str] = ()

    @property
    def consuming(self) -> int:
        """Workers of this host that take messages; where some are to run, those of their owner."""
        owner = self.owner or "none"
        return sum(
            worker.state == "consuming" and (not self.expected or worker.owner == owner)
            for worker in self.workers
        )

    @property
    def state(self) -> State:
        """What it amounts to, in one word."""
        if self.owner_error:
            return "unknown"
        if not (self.expected or any(worker.pid for worker in self.workers)):
            return "stopped"
        is_whole = self.consuming >= max(1, self.expected) and not self.redis_error
        return "running" if is_whole and not self.account_holds else "degraded"

    @property
    def account_holds(self) -> list[Hold]:
        """Those because of which this host's workers call nobody."""
        return self.shared.account_holds(self.workers)

    @property
    def everyone(self) -> list[Worker]:
        """The workers of all hosts."""
        return [*self.workers, *self.elsewhere]

    @property
    def expected_by_host(self) -> dict[str, int]:
        """How many workers are to run, by host, where somebody said so; 0 where they are stopped."""
        is_known = self.expected or self.recorded is not None
        return self.expected_elsewhere | ({self.host: self.expected} if is_known else {})

    @property
    def length(self) -> int:
        """Messages that wait, in all queues."""
        return sum(queue.ready for queue in self.queues)

    @property
    def tasks(self) -> int:
        """Tasks under way on this host."""
        return sum(worker.tasks for worker in self.workers)

    @property
    def oldest_task_s(self) -> float:
        """For how long the oldest of them is under way."""
        return max((worker.oldest_task_s for worker in self.workers), default=0.0)
