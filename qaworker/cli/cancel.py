"""``qaworker cancel``: takes back what waits in the queues of one run, or of all."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from qaworker import logs, settings
from qaworker.cli import asking, progress, runs
from qaworker.cli.table import printable
from qaworker.client import cancelling
from qaworker.client.cancelling import Waiting
from qaworker.errors import ExitCode
from qaworker.store import holds

# As many as a person reads before answering.
RUNS_SHOWN = 10
# Of a run with a directory, or of a message that was sent without a run.
_RUN_ID: Final = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@click.command("cancel")
@click.argument("run_dir", required=False)
@click.option("--all", "is_all", is_flag=True, help="Cancel every run, also those sent by Python.")
@click.option("--dry-run", "is_dry", is_flag=True, help="List what waits, and remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def command(*, run_dir: str | None, is_all: bool, is_dry: bool, yes: bool) -> int:
    """Remove the waiting messages of the run in RUN_DIR; its ledger and outcomes stay.

    RUN_DIR may be the run's id, where the directory is not at hand. What workers hold runs to its
    end, and a command that is at work on the run ends. Given again, the command that made the run
    goes on with it.
    """
    if is_all == (run_dir is not None):
        raise click.UsageError("give either RUN_DIR or --all")
    values = settings.load()
    logs.configure("warning", values.log_format)
    run_id = None if run_dir is None else _run_id(run_dir)
    if is_dry and yes:
        raise click.UsageError("give either --dry-run or --yes")
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
            is_there = found.messages or cancelling.delivered(broker, run_id)
            question = "remove them, and end the commands that send them?"
            if is_there and not asking.is_wanted(question):
                console.print("nothing was removed")
                return ExitCode.INTERRUPTED
        with console.status("removing what waits"):
            removed = cancelling.cancel(redis, broker, run_id)
        console.print(f"removed {_amount(removed)}")
        if left := cancelling.delivered(broker, run_id):
            console.print(
                f"workers hold messages: {left}; they end them, or drop within"
                f" {values.task_soft_limit_s:g} s what they cannot end"
            )
        for hold in holds.holds(redis):
            if hold.kind == "model" and not hold.is_operators:
                console.print(
                    f"{printable(hold.scope)} is held: that ends by itself within 5 minutes when"
                    f" nobody asks for it, or now with `qaworker hold release {printable(hold.scope)}`",
                    markup=False,
                    soft_wrap=True,
                )
    return ExitCode.OK


def _run_id(text: str) -> str:
    """Raises ConfigError: it is no run directory, and no id either."""
    is_id = _RUN_ID.fullmatch(text) and not Path(text).is_dir()
    return text if is_id else cancelling.run_id_of(Path(text))


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
