"""``qaworker workers``: the workers of all hosts, as their heartbeats tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from gettext import gettext as _

import click

from qaworker import settings
from qaworker.cli.table import show, table
from qaworker.errors import ExitCode
from qaworker.status import gathering
from qaworker.status.picture import Worker
from qaworker.status.spans import spoken


@click.command("workers")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def command(*, as_json: bool) -> int:
    """List the workers of all hosts that beat within the last day and did not say goodbye."""
    workers = gathering.everywhere(settings.load())
    if as_json:
        listing = [asdict(worker) for worker in workers]
        show(json.dumps(listing, ensure_ascii=False, indent=2))
    else:
        show(listed(workers) if workers else _("no worker runs"))
    return ExitCode.OK


def listed(workers: Sequence[Worker]) -> str:
    """One line a worker, and one for each that calls nobody."""
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
        _("log level"),
    )
    rows = [
        (
            worker.name,
            worker.state if worker.exit_code is None else f"{worker.state} ({worker.exit_code})",
            worker.pid,
            worker.owner,
            _span(worker.uptime_s),
            "-" if worker.memory_mib is None else f"{worker.memory_mib:.0f} MiB",
            _span(worker.heartbeat_age_s),
            worker.tasks,
            worker.calls_in_flight,
            worker.log_level or "-",
        )
        for worker in workers
    ]
    lines = [
        _("{name} calls nobody: {reason}").format(name=worker.name, reason=worker.held)
        for worker in workers
        if worker.held
    ]
    return "\n".join([table(headings, rows), *lines])


def _span(seconds: float | None) -> str:
    return "-" if seconds is None else spoken(seconds)
