"""Every Redis key qaworker uses, built here and nowhere else.

Celery's own keys stand under the same prefix (``global_keyprefix``), so one Redis can be shared.
"""

from __future__ import annotations

from typing import Final

PREFIX: Final = "qaw:"

QUEUES: Final = ("high_priority", "qa_generation", "normal_priority", "low_priority")
"""In the order workers consume them."""
DEFAULT_QUEUE: Final = "qa_generation"

PRIORITY_STEPS: Final = (0, 3, 6, 9)
"""What Celery rounds a message's own priority to; each has a list in each queue."""


def queue(name: str, step: int = 0) -> str:
    """List: messages ready in a queue at a priority step, newest first (written by Celery)."""
    return f"{PREFIX}{name}\x06\x16{step}" if step else f"{PREFIX}{name}"


def unacked() -> str:
    """Hash: delivery tag, which begins with the queue -> a message that a worker holds (by Celery)."""
    return f"{PREFIX}unacked"


def outcome(digest: str) -> str:
    """String: a compressed outcome; expires after QAWORKER_OUTCOME_DAYS."""
    return f"{PREFIX}outcome:{digest}"


def claim(digest: str) -> str:
    """String: the process that is generating this outcome; expires unless renewed."""
    return f"{PREFIX}claim:{digest}"


def takers(digest: str) -> str:
    """Set: processes that took a chunk and never said what became of it; expires."""
    return f"{PREFIX}takers:{digest}"


def spent(run_id: str, digest: str) -> str:
    """String: what a run has spent on a chunk without outcome, as JSON; expires like an outcome."""
    return f"{PREFIX}spent:{run_id}:{digest}"


def done(run_id: str) -> str:
    """List: digests of a run whose outcome was stored, not yet read by its client."""
    return f"{PREFIX}done:{run_id}"


def task(task_id: str) -> str:
    """String: which chunks a task sent without a run held; expires like an outcome."""
    return f"{PREFIX}task:{task_id}"


def heartbeats() -> str:
    """Sorted set: worker name -> server time of its last sign of life, in seconds."""
    return f"{PREFIX}heartbeats"


def worker(name: str) -> str:
    """String: what a worker last said of itself, as JSON; expires."""
    return f"{PREFIX}worker:{name}"


def farewell(name: str) -> str:
    """String: what a worker that ended in order finished and handed back, as JSON; expires."""
    return f"{PREFIX}farewell:{name}"


def expected() -> str:
    """Hash: host -> how many worker processes are to run there."""
    return f"{PREFIX}expected"


def quiet() -> str:
    """Set: names of workers that are to take nothing new."""
    return f"{PREFIX}quiet"


def probe() -> str:
    """String: that the queue's Redis takes writes (in that Redis); expires within a second."""
    return f"{PREFIX}probe"


def cancelled(run_id: str | None) -> str:
    """String: when a run (None: every run) was cancelled, in seconds; expires after a day."""
    return f"{PREFIX}cancelled:{run_id or 'all'}"


def holds() -> str:
    """Hash: scope of a hold -> why and since when nobody is to call, as JSON."""
    return f"{PREFIX}holds"


def letters() -> str:
    """Sorted set: run and digest of each dead letter -> when it died, in seconds."""
    return f"{PREFIX}letters"


def letter(run_id: str, digest: str) -> str:
    """String: a compressed dead letter; expires like an outcome."""
    return f"{PREFIX}letter:{run_id}:{digest}"


def requeued(run_id: str) -> str:
    """Hash: digest of a dead chunk that was requeued -> when, in seconds; read by the client."""
    return f"{PREFIX}requeued:{run_id}"


def budget(run_id: str) -> str:
    """Hash: budget, spent and reserved micro-dollars of a run, and when it was opened; expires."""
    return f"{PREFIX}budget:{run_id}"


def budget_reservations(run_id: str) -> str:
    """Sorted set: open reservations of a run's budget -> when they expire, in seconds; expires."""
    return f"{PREFIX}budget-reservations:{run_id}"


def budget_charged(run_id: str) -> str:
    """Set: reservations of a run's budget that were charged in full, as nobody settled; expires."""
    return f"{PREFIX}budget-charged:{run_id}"


def limiter(account: str, model: str) -> str:
    """Hash: buckets and limits of a model of a provider's account; expires when unused."""
    return f"{PREFIX}limiter:{account}:{model}"


def limiter_reservations(account: str, model: str) -> str:
    """Sorted set: open reservations -> when they expire, in milliseconds; expires when unused."""
    return f"{PREFIX}limiter-reservations:{account}:{model}"


def limiters() -> str:
    """Sorted set: account:model of each limiter -> when it was last used, in milliseconds."""
    return f"{PREFIX}limiters"


def counters() -> str:
    """Hash: what is counted, with its labels -> how often, or the sum in millionths."""
    return f"{PREFIX}counters"


def counted(writer: str) -> str:
    """String: the number of the last portion of counts that a process handed over; expires."""
    return f"{PREFIX}counted:{writer}"


def counted_models() -> str:
    """Set: models that are counted by their name, the first ones that came."""
    return f"{PREFIX}counted-models"
