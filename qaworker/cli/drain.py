"""``qaworker drain``: lets workers finish what they hold and take nothing new, or consume again."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click
from redis import Redis
from rich.console import Console

from qaworker import logs, settings
from qaworker.cli import progress, runs
from qaworker.cli.table import printable
from qaworker.errors import ExitCode, QAWorkerError
from qaworker.store import fleet, heartbeats
from qaworker.store.heartbeats import Beat

POLL_S = 0.5
# A task may take minutes, and nobody should wonder meanwhile.
TELL_EVERY_S = 10.0
# What becomes of workers that were told, and how that is said.
SAID = {
    "quiet": "is quiet",
    "consuming": "consumes",
    "ended": "ended in order",
    "lost": "does not answer any more: others get what it held",
    "replaced": "was started again, and consumes",
}
BAD = {"lost", "replaced"}


@click.command("drain")
@click.option(
    "--worker",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this one: qa_worker-2@HOST, or qa_worker-2 where one host has it; may be repeated."
    "  [default: all, of all hosts]",
)
@click.option("--no-wait", is_flag=True, help="Return when they are told; they obey within 10 s.")
@click.option("--resume", is_flag=True, help="Let them take messages again instead.")
@click.option(
    "--timeout", type=click.FloatRange(0), help="Seconds to wait.  [default: as long as it takes]"
)
@click.option("--json", "as_json", is_flag=True, help="Print what became of each as JSON.")
def command(
    *, names: tuple[str, ...], no_wait: bool, resume: bool, timeout: float | None, as_json: bool
) -> int:
    """Let workers finish what they hold and take nothing new; returns when they have.

    They stay up, and quiet, until they are told to --resume, or an operator starts or restarts workers on
    their host.
    """
    values = settings.load()
    logs.configure("warning", values.log_format)
    console = progress.console()
    with runs.outcomes_redis(values) as redis:
        told = _named(heartbeats.living(redis), names)
        if told:
            tell = fleet.resume if resume else fleet.make_quiet
            tell(redis, [beat.name for beat in told])
        watch = _Watch(console, told, wanted="consuming" if resume else "quiet")
        if not no_wait:
            watch.wait(redis, timeout)
    for beat in watch.pending.values():
        _say(console, f"{beat.name} is told" if no_wait else f"{beat.name}: {_holdings(beat)}")
    if watch.pending and not no_wait:
        _say(console, "they remain told: the same command goes on waiting")
    if not told:
        _say(console, "no worker answers: none takes anything")
    if as_json:
        click.echo(json.dumps(watch.became | dict.fromkeys(watch.pending, "told"), indent=2))
    if BAD & set(watch.became.values()) or (resume and not told):
        return ExitCode.FAILED
    return ExitCode.TRY_AGAIN if watch.pending and not no_wait else ExitCode.OK


def _named(living: Sequence[Beat], names: Sequence[str]) -> list[Beat]:
    """The workers of these names, or all; raises QAWorkerError for a name of none or of several."""
    if not names:
        return list(living)
    found = []
    for name in names:
        of_name = [beat for beat in living if name in {beat.name, beat.name.partition("@")[0]}]
        if len(of_name) != 1:
            which = ", ".join(beat.name for beat in of_name or living) or "none"
            raise QAWorkerError(
                f"several workers are named {name}: say which of {which}"
                if of_name
                else f"no worker named {name} answers; there are: {which}"
            )
        found += of_name
    return found


class _Watch:
    """Workers that were told, until each is as it was told to be, or gone."""

    def __init__(self, console: Console, told: Sequence[Beat], *, wanted: str) -> None:
        self._console = console
        self._wanted = wanted
        self._told = {beat.name: beat for beat in told}
        self.pending = dict(self._told)
        """What each last said that is to be waited for."""
        self.became: dict[str, str] = {}
        """A key of SAID for each of the others."""

    def wait(self, redis: Redis, timeout_s: float | None) -> None:
        """Say of each worker what becomes of it; raises StoreUnavailable."""
        told_at = time.monotonic()
        give_up_at = None if timeout_s is None else time.monotonic() + timeout_s
        with self._console.status("waiting for the workers") as status:
            while True:
                self._look(redis)
                if not self.pending or (give_up_at is not None and time.monotonic() >= give_up_at):
                    return
                status.update("; ".join(f"{b.name}: {_holdings(b)}" for b in self.pending.values()))
                if time.monotonic() - told_at >= TELL_EVERY_S:
                    told_at = time.monotonic()
                    for beat in self.pending.values():
                        _say(self._console, f"{beat.name}: {_holdings(beat)}")
                time.sleep(POLL_S)

    def _look(self, redis: Redis) -> None:
        living = {beat.name: beat for beat in heartbeats.living(redis)}
        for name in list(self.pending):
            beat = living.get(name)
            if became := self._became(redis, name, beat):
                del self.pending[name]
                self.became[name] = became
                _say(self._console, f"{name} {SAID[became]}")
            elif beat is not None:
                self.pending[name] = beat

    def _became(self, redis: Redis, name: str, beat: Beat | None) -> str:
        """A key of SAID; empty while it is not as it was told to be."""
        if beat is None:
            return "lost" if heartbeats.farewell(redis, name) is None else "ended"
        if beat.state == self._wanted and not (self._wanted == "quiet" and beat.tasks):
            return self._wanted
        if beat.started_at != self._told[name].started_at and beat.state == "consuming":
            return "replaced"
        return ""


def _holdings(beat: Beat) -> str:
    if not beat.tasks:
        return "not obeyed yet"
    held = f", which waits for a hold ({printable(beat.held)})" if beat.held else ""
    return f"tasks: {beat.tasks}, the oldest for {beat.oldest_task_s:.0f} s{held}"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
