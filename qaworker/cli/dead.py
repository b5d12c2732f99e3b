"""``qaworker dead``: dead letters, to be looked at, sent again or thrown away."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

from qaworker import settings
from qaworker.cli import asking, runs
from qaworker.cli.spans import span
from qaworker.cli.table import printable, table
from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    ChunkTooLarge,
    ExitCode,
    InternalFault,
    MessageInvalid,
    ProviderUnavailable,
    RequestRefused,
    WorkerDied,
)
from qaworker.status.spans import spoken
from qaworker.store.dead_letters import UNREADABLE, DeadLetter, DeadLetters, Selection

_AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_YES: Final = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_FILTERS: Final = (
    click.argument("digests", nargs=-1, metavar="[DIGEST]..."),
    click.option("--reason", help="Only those that died of this."),
    click.option("--run", metavar="RUN", help="Only those of this run: its id, or its directory."),
    click.option("--older-than", type=span, help="Only those that died before so long ago."),
    click.option("--newer-than", type=span, help="Only those that died since so long ago."),
)
# Of an error, in a table.
_DETAIL_SHOWN: Final = 60
_DIGEST_SHOWN: Final = 12
_RAW_SHOWN: Final = 2_000
_REASONS: Final = sorted(
    {
        UNREADABLE,
        *(
            kind.reason
            for kind in (
                AnswerInvalid,
                AnswerTruncated,
                ChunkTooLarge,
                InternalFault,
                MessageInvalid,
                ProviderUnavailable,
                RequestRefused,
                WorkerDied,
            )
        ),
    }
)
"""What chunks and messages die of; a letter of another version may say something else."""
_NONE: Final = "there is no such dead letter"
_SEE: Final = "see `qaworker dead list`"


def _selecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which letters; they reach the command for :func:`_selection`."""
    for option in reversed(_FILTERS):
        function = option(function)
    return function


@click.group("dead")
def command() -> None:
    """List, show, requeue and discard dead letters.

    A chunk that cannot succeed, and a message that nobody can read, leave one; it is kept as long
    as outcomes are. DIGEST is how a digest begins; --older-than and --newer-than take 30m, 2h, 7d.
    """


@command.command("list")
@_selecting
@_AS_JSON
def list_(*, as_json: bool, **filters: Any) -> int:
    """List dead letters, the newest first."""
    with runs.outcomes_redis(settings.load()) as redis:
        letters = _found(DeadLetters(redis), _selection(**filters))
    if as_json:
        _print_json([letter.model_dump(mode="json", exclude={"raw"}) for letter in letters])
    else:
        click.echo(_listed(letters) if letters else _NONE)
    return ExitCode.OK


@command.command("show")
@_selecting
@_AS_JSON
def show(*, as_json: bool, **filters: Any) -> int:
    """Show dead letters with their inputs: the chunk, or the bytes of what is no message."""
    with runs.outcomes_redis(settings.load()) as redis:
        letters = _found(DeadLetters(redis), _selection(**filters))
    if as_json:
        _print_json([letter.model_dump(mode="json") for letter in letters])
    else:
        shown = [_shown(letter) for letter in letters]
        click.echo("\n\n".join(shown) or _NONE)
    return ExitCode.OK if letters else ExitCode.FAILED


@command.command("requeue")
@_selecting
@_YES
@_AS_JSON
def requeue(*, yes: bool, as_json: bool, **filters: Any) -> int:
    """Send exactly these chunks again, each to its queue and for its run, with all attempts.

    The command of a run that is at work takes the new outcomes, or does when it is given again.
    Messages that nobody can read stay; where any letter stays, the exit status is 1.
    """
    from qaworker.client.requeueing import requeue as send_again

    values = settings.load()
    with runs.outcomes_redis(values) as redis:
        letters = _found(DeadLetters(redis), _selection(**filters))
        if not _confirmed(letters, "send them again?", yes=yes):
            return ExitCode.INTERRUPTED
        done = send_again(redis, letters, timedelta(days=values.outcome_days))
    if as_json:
        _print_json({"sent": done.sent, "unsent": done.unsent, "refused": done.refused})
    elif not letters:
        click.echo(f"{_NONE}: {_SEE}", err=True)
    else:
        click.echo(f"chunks sent again: {done.sent}")
        if done.unsent:
            click.echo(f"left to their run's own command, given again: {done.unsent}")
        for why, count in done.refused.items():
            click.echo(f"not sent ({why}): {count}")
    return ExitCode.OK if letters and not done.refused else ExitCode.FAILED


@command.command("discard")
@_selecting
@_YES
@_AS_JSON
def discard(*, yes: bool, as_json: bool, **filters: Any) -> int:
    """Throw dead letters away; their chunks stay dead."""
    with runs.outcomes_redis(settings.load()) as redis:
        store = DeadLetters(redis)
        letters = _found(store, _selection(**filters))
        if not _confirmed(letters, "throw them away?", yes=yes):
            return ExitCode.INTERRUPTED
        discarded = store.remove(letters)
    if as_json:
        _print_json({"discarded": discarded})
    elif not letters:
        click.echo(f"{_NONE}: {_SEE}", err=True)
    else:
        click.echo(f"dead letters discarded: {discarded}")
    return ExitCode.OK if letters else ExitCode.FAILED


def _selection(
    *,
    digests: tuple[str, ...],
    reason: str | None,
    run: str | None,
    older_than: timedelta | None,
    newer_than: timedelta | None,
) -> Selection:
    from qaworker.cli.scopes import run_id_meant

    if "" in digests:  # a script's variable that is not set would mean all
        raise click.UsageError("a DIGEST is empty: give how it begins, or none for all")
    run_id = None if run is None else run_id_meant(run)
    return Selection(digests, run_id, reason, older_than, newer_than)


def _found(store: DeadLetters, selection: Selection) -> list[DeadLetter]:
    """The letters selected; says what a person may have mistyped where there is none.

    Raises:
        UsageError: nothing dies of this reason.
    """
    letters = list(store.find(selection))
    if not letters and selection.reason not in {None, *_REASONS}:
        raise click.UsageError(
            f"nothing dies of {selection.reason}: give one of {', '.join(_REASONS)}"
        )
    run_id = selection.run_id
    if not letters and run_id is not None and not any(store.find(Selection(run_id=run_id))):
        click.echo(f"run {printable(run_id)} has none left: is that its id?", err=True)
    return letters


def _confirmed(letters: Sequence[DeadLetter], question: str, *, yes: bool) -> bool:
    if yes or not letters:
        return True
    reasons = Counter(letter.reason for letter in letters)
    counted = ", ".join(f"{printable(reason)} {n}" for reason, n in reasons.most_common())
    runs_meant = len({letter.run_id for letter in letters})
    click.echo(f"dead letters: {len(letters)} ({counted}), runs: {runs_meant}", err=True)
    return asking.is_wanted(question)


def _listed(letters: Sequence[DeadLetter]) -> str:
    headings = ("digest", "died", "reason", "calls", "run", "chunk", "last error")
    now = time.time()
    rows = [
        (
            letter.digest[:_DIGEST_SHOWN],
            f"{spoken(max(0, now - letter.died_at))} ago",
            printable(letter.reason),
            letter.calls,
            printable(letter.run_id) or "-",
            printable(letter.chunk.chunk_id) if letter.chunk else "-",
            _shortened(printable(letter.detail)),
        )
        for letter in letters
    ]
    return table(headings, rows)


def _shortened(text: str) -> str:
    return text if len(text) <= _DETAIL_SHOWN else f"{text[: _DETAIL_SHOWN - 1]}…"


def _shown(letter: DeadLetter) -> str:
    fields: dict[str, object] = {
        "digest": letter.digest,
        "died": datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds"),
        "reason": letter.reason,
        "last error": letter.detail,
        "attempts": letter.attempts,
        "calls": letter.calls,
        "run": letter.run_id,
        "queue": letter.queue,
        "model": letter.model,
    }
    if letter.config is not None:
        fields["config"] = letter.config.model_dump_json(exclude_defaults=True)
    if letter.chunk is not None:
        fields["origin"] = letter.chunk.origin.model_dump_json(exclude_defaults=True)
        fields["text"] = letter.chunk.text
    if letter.raw:
        # Bytes as Python writes them: whatever they are, the terminal stays as it is.
        fields["bytes"] = len(letter.raw)
        fields["begins"] = repr(letter.raw[:_RAW_SHOWN])[2:-1]
    return "\n".join(f"{name}: {printable(str(value))}" for name, value in fields.items())


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
