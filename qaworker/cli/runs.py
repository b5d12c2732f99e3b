"""What the commands that drive a run share: Redis, workers, the bar, and the files at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click
from redis import Redis
from rich.console import Console

from qaworker.cli import progress
from qaworker.client.driver import CHUNKS_PER_TASK, Driver
from qaworker.client.senders import QUEUE_OF, QueueSender, Sender
from qaworker.errors import ExitCode
from qaworker.exports.files import export
from qaworker.exports.summary import summarize
from qaworker.models import GenerationConfig, Priority
from qaworker.settings import Settings
from qaworker.store import heartbeats
from qaworker.store.connections import connect
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader


@contextmanager
def queue_sender(
    settings: Settings,
    reader: OutcomeReader,
    priority: Priority | None,
    *,
    all_at_once: bool = False,
) -> Iterator[QueueSender]:
    """A sender to the workers' queue."""
    with connect(settings.broker_url or settings.redis_url) as broker:
        ready_tasks = None if all_at_once else settings.ready_tasks
        yield QueueSender(broker, reader, QUEUE_OF[priority], ready_tasks=ready_tasks)


@contextmanager
def local_sender(settings: Settings, config: GenerationConfig) -> Iterator[Sender]:
    """A sender to an engine in this process, which is drained at the end."""
    from qaworker.client.local import LocalSender
    from qaworker.engine.thread import EngineThread
    from qaworker.runtime import open_engine

    engine = EngineThread(partial(open_engine, settings))
    engine.start()
    # Twice what can be on the wire, so that slow answers leave no slot empty.
    calls = CHUNKS_PER_TASK // config.batch_chunks
    sender = LocalSender(engine, batches=2 * settings.calls_in_flight // calls + 1)
    try:
        yield sender
    finally:
        engine.drain()
        sender.wait()
        engine.close()


def tell_workers(console: Console, redis: Redis, expected: int | None) -> None:
    """Say when no worker process answers, or fewer than expected."""
    living = len(heartbeats.living(redis))
    if living < (expected or 1):
        wanted = f" of {expected}" if expected else ""
        console.print(
            f"{living}{wanted} worker processes answer: start them with `qaworker worker`;"
            " the run waits for them",
            style="yellow",
        )


def drive(
    console: Console, driver: Driver, ledger: Ledger, *, timeout_s: float | None = None
) -> ExitCode:
    """Bring a run to its end, showing how it goes; OK, TRY_AGAIN after a time-out, or INTERRUPTED."""
    try:
        with progress.running(console, ledger.counts()) as on_progress:
            complete = driver.run(on_progress, timeout_s=timeout_s)
    except KeyboardInterrupt:
        complete = False
        code = ExitCode.INTERRUPTED
    else:
        code = ExitCode.OK if complete else ExitCode.TRY_AGAIN
    if not complete:
        counts = ledger.counts()
        console.print(
            f"{counts.settled} of {counts.chunks} chunks have an outcome: the same command goes on"
        )
    return code


def finish(
    console: Console, ledger: Ledger, directory: Path, *, seconds: float, as_json: bool
) -> ExitCode:
    """Export a complete run and say what came of it."""
    counts = ledger.counts()
    summary = summarize(ledger.description, asdict(counts) | {"usage": counts.usage.model_dump()})
    paths = export(directory, ledger.results(), summary)
    progress.table(console, counts, seconds)
    for path in paths:
        console.print(f"wrote {path}", soft_wrap=True)
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
    return ExitCode.FAILED if counts.dead else ExitCode.OK
