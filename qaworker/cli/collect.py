"""``qaworker collect``: waits for a submitted run, sends again what got lost, and exports."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import click

from qaworker import logs, settings
from qaworker.cli import amounts, interrupts, progress, runs, spending
from qaworker.errors import ConfigError, ExitCode
from qaworker.store.ledger import Ledger


@click.command("collect")
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option(
    "--timeout", type=click.FloatRange(0), help="Seconds to wait.  [default: as long as it takes]"
)
@amounts.budget_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary on standard output.")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens.")
def command(
    *, run_dir: Path, timeout: float | None, budget: int | None, as_json: bool, verbose: bool
) -> int:
    """Wait until every chunk of the run in RUN_DIR has an outcome, then export its pairs."""
    started_at = time.monotonic()
    values = settings.load()
    logs.configure("info" if verbose else "warning", values.log_format)
    console = progress.console()
    with ExitStack() as stack:
        stack.enter_context(interrupts.heeded())
        ledger = stack.enter_context(Ledger.open(run_dir))
        if not ledger.filled:
            raise ConfigError(f"{run_dir}: its dataset was not read to the end: submit it again")
        redis = stack.enter_context(runs.outcomes_redis(values))
        broker = stack.enter_context(runs.queue_redis(values))
        limit = spending.open_budget(values, ledger, redis, budget)
        stack.enter_context(runs.exported_if_held(console, ledger, redis, run_dir))
        driver = runs.queue_driver(ledger, redis, broker, limit, ready_tasks=values.ready_tasks)
        code = runs.drive(
            console,
            driver,
            ledger,
            held=runs.Held(redis, ledger.description["model"]),
            timeout_s=timeout,
        )
        if code is not ExitCode.OK:
            return code
        seconds = time.monotonic() - started_at
        return runs.finish(console, ledger, run_dir, seconds=seconds, as_json=as_json)
