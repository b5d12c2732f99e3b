"""``qaworker generate``: a dataset in, question/answer pairs out, in one command."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import click

from qaworker import logs, settings
from qaworker.cli import progress, runs
from qaworker.cli.request import read_request, request_options
from qaworker.client.intake import prepare
from qaworker.errors import ExitCode


@click.command("generate")
@request_options
@click.option(
    "--use-celery", is_flag=True, help="Let the Celery workers call; else this process does."
)
@click.option(
    "--celery-workers", type=click.IntRange(1), help="Say so when fewer worker processes answer."
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def command(
    *, use_celery: bool, celery_workers: int | None, as_json: bool, verbose: bool, **options: Any
) -> int:
    """Turn a dataset into question/answer pairs.

    Interrupted, it goes on where it was when the same command is given again: no recorded answer
    is paid for twice.
    """
    started_at = time.monotonic()
    values = settings.load()
    logs.configure("info" if verbose else "warning", values.log_format)
    request, directory = read_request(values, options)
    if not use_celery:
        values.require_api_key()
    console = progress.console()
    with ExitStack() as stack:
        redis = stack.enter_context(runs.outcomes_redis(values))
        broker = stack.enter_context(runs.queue_redis(values)) if use_celery else None
        with progress.reading(console) as on_document:
            ledger = stack.enter_context(prepare(request, directory, on_document=on_document))
        if broker is not None:
            if celery_workers:
                runs.tell_workers(console, redis, celery_workers)
            driver = runs.queue_driver(ledger, redis, broker, values.ready_tasks)
            code = runs.drive(console, driver, ledger, held=runs.Held(redis))
        else:
            driver = stack.enter_context(runs.local_driver(values, ledger, redis))
            code = runs.drive(console, driver, ledger)
        if code is not ExitCode.OK:
            return code
        seconds = time.monotonic() - started_at
        return runs.finish(console, ledger, directory, seconds=seconds, as_json=as_json)
