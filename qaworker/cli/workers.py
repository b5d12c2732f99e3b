"""``qaworker workers``: the workers of all hosts, as their heartbeats tell."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from gettext import gettext as _

import click

from qaworker import settings
from qaworker.cli import calling
from qaworker.cli.table import show, table
from qaworker.errors import ExitCode
from qaworker.status import gathering
from qaworker.status.picture import Shared, Worker
from qaworker.status.spans import spoken


@click.command("workers")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def command(*, as_json: bool) -> int:
    """List the workers of all hosts that beat within the last day and did not say goodbye."""
    workers, shared = gathering.everywhere(settings.load())
    if as_json:
        listing = [asdict(worker) for worker in workers]
        show(json.dumps(listing, ensure_ascii=False, indent=2))
    else:
        show("\n".join(_lines(workers, shared)))
    return ExitCode.OK


def _lines(workers: Sequence[Worker], shared: Shared) -> Iterator[str]:
    yield listed(workers) if workers else _("no worker runs")
    if shared.limiters:
        yield from ("", calling.limiters(shared))
    if shared.holds or shared.dead_letters:
        yield from ("", *calling.held(shared, workers), calling.dead(shared))


def listed(workers: Sequence[Worker]) -> str:
    """One line a worker."""
    headings = (
        _("worker"),
        _("state"),
        _("pid"),
        _("owner"),
        _("uptime"),
        _("memory"),
        _("heartbeat"),
        _("tasks"),
        _("calls"),
        _("waiting"),
        _("log level"),
    )
    rows = [
        (
            worker.name,
            _state(worker),
            worker.pid,
            worker.owner,
            _span(worker.uptime_s),
            "-" if worker.memory_mib is None else f"{worker.memory_mib:.0f} MiB",
            _span(worker.heartbeat_age_s),
            worker.tasks,
            "-" if worker.calls_in_flight is None else worker.calls_in_flight,
            f"{worker.calls_waiting} ({spoken(worker.oldest_wait_s)})"
            if worker.calls_waiting
            else "-",
            worker.log_level or "-",
        )
        for worker in workers
    ]
    return table(headings, rows)


def _state(worker: Worker) -> str:
    if worker.exit_code is not None:
        return f"{worker.state} ({worker.exit_code})"
    return f"{worker.state}, held" if worker.held else worker.state


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else spoken(seconds)
