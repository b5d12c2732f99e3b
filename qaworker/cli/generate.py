"""``qaworker generate``: a dataset in, question/answer pairs out, in one command."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import click

from qaworker import logs, settings
from qaworker.cli import amounts, interrupts, progress, runs, spending
from qaworker.cli.request import read_request, request_options
from qaworker.client.intake import prepare
from qaworker.errors import ExitCode
from qaworker.llm.addresses import account
from qaworker.store import heartbeats


@click.command("generate")
@request_options
@click.option(
    "--use-celery", is_flag=True, help="Let the Celery workers call; else this process does."
)
@click.option(
    "--celery-workers", type=click.IntRange(1), help="Say so when fewer worker processes answer."
)
@amounts.budget_option
@amounts.yes_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def command(
    *,
    use_celery: bool,
    celery_workers: int | None,
    budget: int | None,
    yes: bool,
    as_json: bool,
    verbose: bool,
    **options: Any,
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
    spending.check(values, request.model, budget)
    console = progress.console()
    with ExitStack() as stack:
        stack.enter_context(interrupts.heeded())
        redis = stack.enter_context(runs.outcomes_redis(values))
        broker = stack.enter_context(runs.queue_redis(values)) if use_celery else None
        with progress.reading(console) as on_document:
            ledger = stack.enter_context(prepare(request, directory, on_document=on_document))
        processes = max(1, len(heartbeats.living(redis))) if use_celery else 1
        plan = spending.plan_of(console, values, request, ledger, redis, processes)
        is_confirmed = yes or (budget or ledger.budget_micros) is not None
        if not spending.is_wanted(console, values, plan, is_confirmed=is_confirmed):
            return ExitCode.INTERRUPTED
        limit = spending.open_budget(values, ledger, redis, budget)
        stack.enter_context(runs.exported_if_held(console, ledger, redis, directory))
        if broker is not None:
            if celery_workers:
                runs.tell_workers(console, redis, celery_workers)
            driver = runs.queue_driver(ledger, redis, broker, limit, ready_tasks=values.ready_tasks)
            code = runs.drive(console, driver, ledger, held=runs.Held(redis, request.model))
        else:
            driver = stack.enter_context(runs.local_driver(values, ledger, redis, limit))
            own = account(values.openai_base_url, values.openai_api_key.get_secret_value())
            held = runs.Held(redis, request.model, own=own)
            code = runs.drive(console, driver, ledger, held=held)
        if code is not ExitCode.OK:
            return code
        seconds = time.monotonic() - started_at
        return runs.finish(console, ledger, directory, seconds=seconds, as_json=as_json)
