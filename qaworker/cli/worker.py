"""``qaworker worker``: one worker process, for whatever owns it."""

from __future__ import annotations

import faulthandler
import gc
import os
import socket
import sys
import warnings
from pathlib import Path

import click
from redis import Redis

from qaworker import logs, settings
from qaworker.errors import Busy, ConfigError
from qaworker.owners import processes
from qaworker.store import heartbeats

log = logs.get(__name__)

# A Redis that starts together with its workers is there by then.
START_PATIENCE_S = 10.0
# So many that live are new before Python looks for cycles among them; its own number is 700 to 2,000.
NEW_OBJECTS = 20_000


@click.command("worker")
@click.option(
    "-n",
    "--number",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Which worker of this host: its name is qa_worker-N@HOST.",
)
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least level that is logged.  [default: QAWORKER_LOG_LEVEL]",
)
@click.option(
    "--logfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Log to this file, which may be rotated, instead of standard error.",
)
def command(number: int, loglevel: str | None, logfile: Path | None) -> int:
    """Run one worker process until it is told to stop.

    TERM ends it in order: calls on the wire are finished, everything else goes back to the queue.
    QUIT hands those on the wire back too, and ends it within seconds.
    """
    # What the watchdog of systemd aborts leaves where every thread was.
    faulthandler.enable()
    values = settings.load()
    values.require_api_key()
    try:
        logs.configure(loglevel or values.log_level, values.log_format, logfile)
    except OSError as error:
        raise ConfigError(f"--logfile {logfile}: {error.strerror}: name another") from error
    from celery.exceptions import CPendingDeprecationWarning
    from celery.platforms import SecurityWarning

    from qaworker import heart, runtime
    from qaworker.app import app
    from qaworker.consumer import pulse
    from qaworker.store import fleet
    from qaworker.store.connections import connect, require

    name = f"qa_worker-{number}@{socket.gethostname()}"
    with connect(values.redis_url) as redis:
        require(redis, "REDIS_URL", patience_s=START_PATIENCE_S)
        _refuse_a_second(redis, name)
        # Known before it could take a message: its predecessor may have been drained, and crashed.
        pulse.is_to_be_quiet = fleet.is_quiet(redis, name)
    if values.broker_url:
        with connect(values.broker_url) as broker:
            require(broker, "CELERY_BROKER_URL", patience_s=START_PATIENCE_S)
    if os.geteuid() == 0:
        log.warning("worker_runs_as_root")
        # Celery's own warning is a paragraph that advises an option there is not here.
        warnings.filterwarnings("ignore", category=SecurityWarning)
    if values.pool == "threads":
        runtime.start(values)
    else:
        # The children start one each; what would prevent it is found here, where it ends the process.
        runtime.check(values)
    worker = app.Worker(
        hostname=name,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    # Of what `app` sets on purpose, a paragraph whenever Redis goes away: Celery has just asked for it.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    _spare_the_collector()
    worker.start()
    if heart.is_to_be_replaced() and heart.owner() in {"pid", "none"}:
        os.execv(sys.executable, [sys.executable, "-m", "qaworker", *sys.argv[1:]])  # noqa: S606
    return int(worker.exitcode or 0)


def _spare_the_collector() -> None:
    """Let Python look for cycles seldom, and never among what there is now.

    With its own thresholds that took a seventh of a busy worker's processor time, and found next to
    nothing: what an answered call leaves behind has hardly a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)


def _refuse_a_second(redis: Redis, name: str) -> None:
    """Two of one name would overwrite each other's beats; raises Busy while the other lives."""
    for beat in heartbeats.living(redis):
        # This very process had it before it was replaced.
        if beat.name == name and beat.pid != os.getpid() and processes.exists(beat.pid):
            raise Busy(
                f"{name} runs already, as process {beat.pid} (owner: {beat.owner}): end that, or"
                " give another number with -n"
            )
