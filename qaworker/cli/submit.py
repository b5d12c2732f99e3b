"""``qaworker submit``: enqueues a dataset and returns; ``qaworker collect`` does the rest."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import click

from qaworker import logs, settings
from qaworker.cli import amounts, interrupts, progress, runs, spending
from qaworker.cli.request import read_request, request_options
from qaworker.client.intake import prepare
from qaworker.errors import ExitCode
from qaworker.store import heartbeats


@click.command("submit")
@request_options
@amounts.budget_option
@amounts.yes_option
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
def command(*, budget: int | None, yes: bool, as_json: bool, **options: Any) -> int:
    """Enqueue all of a dataset and return; prints the run directory, for `qaworker collect`.

    Given again, it sends only what was not sent before.
    """
    values = settings.load()
    logs.configure("warning", values.log_format)
    request, directory = read_request(values, options)
    spending.check(values, request.model, budget)
    console = progress.console()
    with ExitStack() as stack:
        stack.enter_context(interrupts.heeded())
        redis = stack.enter_context(runs.outcomes_redis(values))
        broker = stack.enter_context(runs.queue_redis(values))
        with progress.reading(console) as on_document:
            ledger = stack.enter_context(prepare(request, directory, on_document=on_document))
        processes = max(1, len(heartbeats.living(redis)))
        plan = spending.plan_of(console, values, request, ledger, redis, processes)
        is_confirmed = yes or (budget or ledger.budget_micros) is not None
        if not spending.is_wanted(console, values, plan, is_confirmed=is_confirmed):
            return ExitCode.INTERRUPTED
        limit = spending.open_budget(values, ledger, redis, budget)
        driver = runs.queue_driver(ledger, redis, broker, limit, ready_tasks=None)
        sent = 0
        while moved := driver.send():
            sent += moved
        counts = ledger.counts()
        console.print(f"{sent} of {counts.chunks} chunks sent: `qaworker collect {directory}`")
        if as_json:
            run = {"run": str(directory), "sent": sent, "chunks": counts.chunks}
            click.echo(json.dumps(run, ensure_ascii=False))
        else:
            click.echo(directory)
    return ExitCode.OK
