"""``qaworker status``: what is running, on one page for who was called at night."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from gettext import gettext as _
from typing import Any, Final

import click

from qaworker.cli import calling, lenient
from qaworker.cli.table import show, table
from qaworker.cli.workers import listed
from qaworker.status import gathering
from qaworker.status.picture import State, Status
from qaworker.status.spans import spoken

EXIT_CODES: Final[dict[State, int]] = {"running": 0, "degraded": 1, "stopped": 3, "unknown": 4}


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(*, as_json: bool) -> int:
    """Show Redis, the queues and the workers of this host; it answers in under a second.

    Exit status: 0 running, 1 degraded (fewer workers consume than are to run, Redis is away, or the
    account is held, so that nobody calls), 3 stopped, 4 unknown. A model or a run that is held
    is shown, and degrades nothing: other work goes on.
    """
    seen = gathering.gather(lenient.load())
    show(json.dumps(described(seen), ensure_ascii=False, indent=2) if as_json else page(seen))
    return EXIT_CODES[seen.state]


def described(seen: Status) -> dict[str, Any]:
    """Everything a program could want."""
    return {
        "state": seen.state,
        "host": seen.host,
        "owner": seen.owner,
        "owner_error": seen.owner_error,
        "expected": seen.expected,
        "consuming": seen.consuming,
        "redis": {
            "reachable": not seen.redis_error,
            "latency_ms": seen.latency_ms,
            "error": seen.redis_error,
        },
        "holds": [hold.model_dump() for hold in seen.shared.holds],
        "dead_letters": {
            "total": seen.shared.dead_letters,
            "last_hour": seen.shared.dead_recently,
        },
        "limiters": [asdict(limiter) for limiter in seen.shared.limiters],
        "queues": [asdict(queue) for queue in seen.queues],
        "workers": [asdict(worker) for worker in seen.workers],
        "elsewhere": [asdict(worker) for worker in seen.elsewhere],
        "expected_elsewhere": seen.expected_elsewhere,
        "active_tasks": seen.tasks,
        "oldest_task_s": seen.oldest_task_s,
        "tasks_done": sum(worker.tasks_done for worker in seen.workers),
        "chunks_done": sum(worker.chunks_done for worker in seen.workers),
        "log": list(seen.log_lines),
    }


def page(seen: Status) -> str:
    """Everything a person could want."""
    return "\n".join(_lines(seen))


def _lines(seen: Status) -> Iterator[str]:
    yield _("=== Celery worker status ===")
    if seen.redis_error:
        yield _("Redis: ✗ not answering ({error})").format(error=seen.redis_error)
    else:
        yield _("Redis: ✓ running ({latency_ms:.1f} ms)").format(latency_ms=seen.latency_ms)
    if seen.queues:
        yield _("Queue length: {length}").format(length=seen.length)
    yield _state(seen)
    if not seen.redis_error:
        yield from calling.held(seen.shared, seen.everyone)
        yield calling.dead(seen.shared)
    if seen.queues:
        yield from ("", _("=== Queues ==="), _queues(seen))
    if seen.workers:
        yield from ("", _("=== Workers ==="), listed(seen.workers))
    if seen.shared.limiters:
        yield from ("", _("=== Limits ==="), calling.limiters(seen.shared))
    if seen.elsewhere or seen.expected_elsewhere:
        yield from ("", _("=== Other hosts ==="), _elsewhere(seen))
    if seen.latency_ms is not None:
        yield from ("", _("=== Active tasks ==="), _active(seen))
    if seen.log_lines:
        yield from ("", _("=== Last log lines ==="), *seen.log_lines)


def _state(seen: Status) -> str:
    texts = {
        "running": _("Workers: running"),
        "degraded": _("Workers: degraded"),
        "stopped": _("Workers: stopped"),
        "unknown": _("Workers: unknown"),
    }
    counted = (
        _("{consuming} of {expected} consume") if seen.expected else _("{consuming} consume")
    ).format(consuming=seen.consuming, expected=seen.expected)
    owned = _("owner: {owner}").format(owner=seen.owner or _("none"))
    if seen.state == "stopped":
        return texts[seen.state]
    held = [_("the account is held")] if seen.account_holds else []
    why = seen.owner_error or ", ".join([*held, counted, owned])
    return f"{texts[seen.state]} ({why})"


def _queues(seen: Status) -> str:
    headings = (_("queue"), _("ready"), _("unacknowledged"), _("oldest"))
    rows = [
        (
            queue.name,
            queue.ready,
            queue.unacknowledged,
            "-" if queue.oldest_age_s is None else spoken(queue.oldest_age_s),
        )
        for queue in seen.queues
    ]
    return table(headings, rows)


def _elsewhere(seen: Status) -> str:
    hosts = sorted({worker.host for worker in seen.elsewhere} | seen.expected_elsewhere.keys())
    rows = []
    for host in hosts:
        workers = [worker for worker in seen.elsewhere if worker.host == host]
        consuming = sum(worker.state == "consuming" for worker in workers)
        expected = seen.expected_elsewhere.get(host, 0)
        rows.append((host, consuming, expected, sum(worker.tasks for worker in workers)))
    return table((_("host"), _("consuming"), _("expected"), _("tasks")), rows)


def _active(seen: Status) -> str:
    tasks_done = sum(worker.tasks_done for worker in seen.workers)
    chunks_done = sum(worker.chunks_done for worker in seen.workers)
    now = (_("{tasks}, the oldest for {span}") if seen.tasks else "{tasks}").format(
        tasks=seen.tasks, span=spoken(seen.oldest_task_s)
    )
    since = _("done since the workers started: tasks {tasks}, chunks {chunks}").format(
        tasks=tasks_done, chunks=chunks_done
    )
    return f"{now}\n{since}"
