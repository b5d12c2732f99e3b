"""``qaworker submit``: enqueues a dataset and returns; ``qaworker collect`` does the rest."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

import click

from qaworker import logs, settings
from qaworker.cli import progress, runs
from qaworker.cli.request import read_request, request_options
from qaworker.client.intake import prepare
from qaworker.errors import ExitCode


@click.command("submit")
@request_options
@click.option("--json", "as_json", is_flag=True, help="Print the run as JSON.")
def command(*, as_json: bool, **options: Any) -> int:
    """Enqueue all of a dataset and return; prints the run directory, for `qaworker collect`.

    Given again, it sends only what was not sent before.
    """
    values = settings.load()
    logs.configure("warning", values.log_format)
    request, directory = read_request(values, options)
    console = progress.console()
    with ExitStack() as stack:
        redis = stack.enter_context(runs.outcomes_redis(values))
        broker = stack.enter_context(runs.queue_redis(values))
        with progress.reading(console) as on_document:
            ledger = stack.enter_context(prepare(request, directory, on_document=on_document))
        driver = runs.queue_driver(ledger, redis, broker, ready_tasks=None)
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
