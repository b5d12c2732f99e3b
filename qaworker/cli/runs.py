"""What the commands that drive a run share: Redis, drivers, the bar, and the files at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from redis import Redis
from rich.console import Console

from qaworker.cli import interrupts, progress
from qaworker.client.budget import Budget
from qaworker.client.driver import CHUNKS_PER_TASK, Driver
from qaworker.client.recording import Recording
from qaworker.client.senders import QUEUE_OF, QueueSender, Sender
from qaworker.errors import (
    ConfigError,
    ExitCode,
    ModelRefused,
    RunDirectoryError,
    RunHeld,
    StoreUnavailable,
)
from qaworker.exports.files import export
from qaworker.exports.summary import summarize
from qaworker.models import GenerationConfig
from qaworker.settings import Settings
from qaworker.store import heartbeats, holds
from qaworker.store.connections import connect, require
from qaworker.store.holds import Hold
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader
from qaworker.store.tally import Counts

# A worker that was started together with the run has beaten by then.
BEATS_WITHIN_S: Final = 10.0


@contextmanager
def outcomes_redis(settings: Settings) -> Iterator[Redis]:
    """The Redis of outcomes and heartbeats.

    Raises:
        StoreUnavailable: it does not answer.
    """
    with connect(settings.redis_url) as redis:
        require(redis)
        yield redis


@contextmanager
def queue_redis(settings: Settings) -> Iterator[Redis]:
    """The Redis of the queue; raises as :func:`outcomes_redis`."""
    with connect(settings.broker_url or settings.redis_url) as broker:
        require(broker, "CELERY_BROKER_URL" if settings.broker_url else "REDIS_URL")
        yield broker


def queue_driver(
    ledger: Ledger, redis: Redis, broker: Redis, budget: Budget, *, ready_tasks: int | None
) -> Driver:
    """A driver that sends to the workers' queue and keeps so many tasks ready, or sends all.

    Raises:
        ConfigError: workers call another API than the run is for.
        StoreUnavailable: Redis does not answer.
    """
    _refuse_another_api(redis, _config(ledger).base_url)
    reader = OutcomeReader(redis)
    queue = QUEUE_OF[ledger.description["priority"]]
    sender = QueueSender(broker, reader, queue, ready_tasks=ready_tasks)
    return _driver(ledger, reader, sender, budget)


def _refuse_another_api(redis: Redis, api: str) -> None:
    """See that the run's texts go where it says, and its outcomes are not another API's."""
    if (other := heartbeats.calling_another(heartbeats.living(redis), api)) is not None:
        raise ConfigError(
            f"{other.name} calls {other.api}, and this run is for {api}: give the command and the"
            " workers the same OPENAI_BASE_URL"
        )


@contextmanager
def local_driver(
    settings: Settings, ledger: Ledger, redis: Redis, budget: Budget
) -> Iterator[Driver]:
    """A driver that sends to an engine in this process, which is drained at the end."""
    from qaworker.client.local import LocalSender
    from qaworker.engine.thread import EngineThread
    from qaworker.runtime import open_engine

    # What an earlier process had in hand is lost with it: there is no queue to wait for.
    ledger.mark_all_waiting()
    engine = EngineThread(partial(open_engine, settings))
    engine.start()
    # Twice what can be on the wire, so that slow answers leave no slot empty.
    config = GenerationConfig.model_validate(ledger.description["config"])
    calls = CHUNKS_PER_TASK // config.batch_chunks
    sender = LocalSender(engine, batches=2 * settings.calls_in_flight // calls + 1)
    try:
        yield _driver(ledger, OutcomeReader(redis), sender, budget)
    finally:
        engine.drain()
        sender.wait()
        engine.close()


def _driver(ledger: Ledger, reader: OutcomeReader, sender: Sender, budget: Budget) -> Driver:
    model = ledger.description["model"]
    return Driver(ledger, reader, sender, config=_config(ledger), model=model, standing=budget)


def _config(ledger: Ledger) -> GenerationConfig:
    return GenerationConfig.model_validate(ledger.description["config"])


def tell_workers(console: Console, redis: Redis, expected: int) -> None:
    """Say when fewer worker processes answer than expected."""
    living = len(heartbeats.living(redis))
    if living < expected:
        console.print(f"{living} of {expected} worker processes answer", style="yellow")


class Held:
    """Finds out why nothing moves."""

    def __init__(
        self,
        redis: Redis,
        model: str,
        *,
        own: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            redis: of the outcomes.
            model: the run's.
            own: the account, where this process calls; empty where workers do.
            clock: seconds that never go back.
        """
        self._redis = redis
        self._model = model
        self._own = own
        self._clock = clock
        self._awaited_until = clock() + BEATS_WITHIN_S

    def __call__(self) -> Sequence[str]:
        """Empty while workers call, or nobody knows."""
        try:
            living = [] if self._own else heartbeats.living(self._redis)
            found = holds.holds(self._redis)
        except StoreUnavailable:
            return ()
        if not (living or self._own) and self._clock() >= self._awaited_until:
            told = "start them with `qaworker worker`; the run waits for them"
            return [f"no worker process answers: {told}"]
        accounts = {self._own} if self._own else {beat.account for beat in living}
        whom = dict.fromkeys(map(holds.account_scope, accounts), "nobody") | {
            holds.model_scope(account, self._model): f"no {self._model}" for account in accounts
        }
        return [
            f"workers call {whom[hold.scope]} for now: {hold.detail or hold.reason}{_remedy(hold)}"
            for hold in found
            if hold.scope in whom
        ]


def _remedy(hold: Hold) -> str:
    if hold.reason != ModelRefused.reason:
        return ""
    return (
        "; if the name is wrong: Ctrl-C, `qaworker cancel RUN_DIR`, then the right --model with"
        " another --output"
    )


def drive(
    console: Console,
    driver: Driver,
    ledger: Ledger,
    *,
    held: Callable[[], Sequence[str]] = tuple,
    timeout_s: float | None = None,
) -> ExitCode:
    """Bring a run to its end, showing how it goes.

    Returns:
        OK, TRY_AGAIN after a time-out, or that of what interrupted it.
    """
    before = ledger.counts()
    try:
        with progress.running(console, before, held) as on_progress:
            complete = driver.run(on_progress, timeout_s=timeout_s)
    except KeyboardInterrupt as interrupt:
        complete = False
        code = interrupts.status_of(interrupt)
    else:
        code = ExitCode.OK if complete else ExitCode.TRY_AGAIN
    if complete and 0 < before.settled == before.chunks:
        console.print("complete already: nothing was sent")
    if not complete:
        counts = ledger.counts()
        console.print(
            f"{counts.settled} of {counts.chunks} chunks have an outcome: the same command goes on"
        )
    return code


@contextmanager
def exported_if_held(
    console: Console, ledger: Ledger, redis: Redis, directory: Path
) -> Iterator[None]:
    """Export what a run has when it is held: nobody may want to pay for the rest."""
    try:
        yield
    except RunHeld:
        # Calls of this process have ended since it was found held.
        with suppress(StoreUnavailable):
            Recording(ledger, OutcomeReader(redis)).record_all()
        counts = ledger.counts()
        if counts.settled:
            console.print(f"{counts.settled} of {counts.chunks} chunks have an outcome")
            try:
                _export(console, ledger, directory, counts)
            except RunDirectoryError as error:
                console.print(str(error), style="yellow", markup=False, soft_wrap=True)
        raise


def finish(
    console: Console, ledger: Ledger, directory: Path, *, seconds: float, as_json: bool
) -> ExitCode:
    """Export a complete run and say what came of it."""
    counts = ledger.counts()
    progress.table(console, counts, seconds)
    summary = _export(console, ledger, directory, counts)
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
    return ExitCode.FAILED if counts.dead else ExitCode.OK


def _export(console: Console, ledger: Ledger, directory: Path, counts: Counts) -> dict[str, Any]:
    """Write the pairs there are; returns the summary."""
    summary = summarize(ledger.description, asdict(counts) | {"usage": counts.usage.model_dump()})
    for path in export(directory, ledger.results(), summary):
        console.print(f"wrote {path}", soft_wrap=True)
    return summary
