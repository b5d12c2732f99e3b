"""``qaworker cancel``: takes back what waits in the queues of one run, or of all."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from qaworker import logs, settings
from qaworker.cli import progress, runs
from qaworker.client import cancelling
from qaworker.client.cancelling import Waiting
from qaworker.errors import ExitCode

# As many as a person reads before answering.
RUNS_SHOWN = 10


@click.command("cancel")
@click.argument("run_dir", required=False, type=click.Path(path_type=Path))
@click.option("--all", "is_all", is_flag=True, help="Cancel every run, also those sent by Python.")
@click.option("--dry-run", "is_dry", is_flag=True, help="List what waits, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(*, run_dir: Path | None, is_all: bool, is_dry: bool, yes: bool) -> int:
    """Remove the waiting messages of the run in RUN_DIR; its ledger and outcomes stay.

    What workers hold runs to its end, and a command that is at work on the run ends. Given again,
    the command that made the run goes on with it.
    """
    if is_all == (run_dir is not None):
        raise click.UsageError("give either RUN_DIR or --all")
    values = settings.load()
    logs.configure("warning", values.log_format)
    run_id = None if run_dir is None else cancelling.run_id_of(run_dir)
    if is_dry and yes:
        raise click.UsageError("give either --dry-run or --yes")
    if not is_dry and not yes and not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask at: give --yes")
    console = progress.console()
    with ExitStack() as stack:
        redis = stack.enter_context(runs.outcomes_redis(values))
        broker = stack.enter_context(runs.queue_redis(values))
        if not yes:
            with console.status("looking through the queues"):
                found = cancelling.waiting(broker, run_id)
            _show(console, found)
            if is_dry:
                return ExitCode.OK
            if not click.confirm("remove them, and end the commands that send them?", err=True):
                console.print("nothing was removed")
                return ExitCode.INTERRUPTED
        with console.status("removing what waits"):
            removed = cancelling.cancel(redis, broker, run_id)
    console.print(f"removed {_amount(removed)}; what workers hold runs to its end")
    return ExitCode.OK


def _show(console: Console, found: Waiting) -> None:
    for run_id, messages in found.messages.most_common(RUNS_SHOWN):
        chunks = found.chunks[run_id]
        console.print(f"run {run_id}: messages: {messages} (chunks: {chunks})")
    if (more := len(found.messages) - RUNS_SHOWN) > 0:
        console.print(f"and {more} more runs")
    console.print(f"in all, {_amount(found)}")


def _amount(found: Waiting) -> str:
    messages, chunks, of_runs = found.messages.total(), found.chunks.total(), len(found.messages)
    return f"messages: {messages} (chunks: {chunks}, runs: {of_runs})"
