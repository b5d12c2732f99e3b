"""``qaworker hold``: what nobody is to call for the time being."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import click

from qaworker import settings
from qaworker.cli import runs, scopes
from qaworker.cli.table import printable, table
from qaworker.errors import ExitCode, StoreUnavailable
from qaworker.settings import Settings
from qaworker.status.spans import spoken
from qaworker.store import holds, overview
from qaworker.store.connections import connect, now_s
from qaworker.store.holds import Hold

_AS_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_NOT_NOW: Final = "-"


@click.group("hold")
def command() -> None:
    """List, set and release holds: calls that nobody makes for the time being.

    SCOPE is `account` (all calls), `model:NAME` or `run:RUN`, the run's id or its directory; the
    account is the one that workers use, unless its name follows, as in `account@1a2b3c4d`.
    """


@command.command("list")
@_AS_JSON
def list_(*, as_json: bool) -> int:
    """List the holds, the oldest first."""
    with runs.outcomes_redis(settings.load()) as redis:
        found, now = holds.holds(redis), now_s(redis)
    if as_json:
        _print_json([hold.model_dump() for hold in found])
    else:
        click.echo(_listed(found, now) if found else "nothing is held")
    return ExitCode.OK


@command.command("set")
@click.argument("scope")
@click.argument("reason")
@_AS_JSON
def set_(*, scope: str, reason: str, as_json: bool) -> int:
    """Hold SCOPE because of REASON, until you release it.

    Workers notice within seconds. Calls on the wire end; chunks wait in the queue.
    """
    if not reason.strip():
        raise click.UsageError("REASON is empty: say why, for who is on call next")
    values = settings.load()
    with runs.outcomes_redis(values) as redis:
        name = scopes.scope_of(scope, values, scopes.accounts_in_use(redis))
        scopes.require_use(scope, name, values, redis)
        is_new = holds.set_hold(redis, name, reason)
        for doubt in scopes.doubts(name, redis):
            click.echo(doubt, err=True)
    if as_json:
        _print_json({"scope": name, "is_new": is_new})
    else:
        already = "" if is_new else ", which was held already and is yours now"
        click.echo(f"holds {name}{already}: `qaworker hold release {name}` ends it")
    return ExitCode.OK


@command.command("release")
@click.argument("scope")
@_AS_JSON
def release(*, scope: str, as_json: bool) -> int:
    """Release SCOPE, whoever held it: its calls go on within seconds.

    A run goes on with its own command, given again. When the cause is not gone, the first call that
    fails sets the hold again.
    """
    values = settings.load()
    with runs.outcomes_redis(values) as redis:
        name = scopes.scope_of(scope, values, scopes.accounts_in_use(redis))
        hold = holds.hold_of(redis, name)
        was_held = holds.release(redis, name)
        others = [hold.scope for hold in holds.holds(redis)]
    waiting = _waiting(values)
    if as_json:
        _print_json({"scope": name, "was_held": was_held, "waiting": waiting, "held": others})
    elif was_held:
        if hold is not None and hold.reason == holds.BUDGET:
            goes_on = "its budget is still spent: its own command takes a larger --budget"
        elif holds.run_of(name):
            goes_on = "its own command, given again, goes on"
        else:
            known = "not known" if waiting is None else waiting
            goes_on = f"calls go on within seconds (messages waiting: {known})"
        click.echo(f"released {name}: {goes_on}")
        if others:
            click.echo(f"still held: {', '.join(map(printable, others))}")
    else:
        click.echo(f"{name} was not held: see `qaworker hold list`", err=True)
    return ExitCode.OK if was_held else ExitCode.FAILED


def _waiting(values: Settings) -> int | None:
    """Messages in the queues; None while their Redis is away."""
    url = values.broker_url or values.redis_url
    try:
        with connect(url, timeout_s=scopes.QUEUE_TIMEOUT_S) as broker:
            return sum(queue.ready + queue.unacknowledged for queue in overview.queues(broker))
    except StoreUnavailable:
        return None


def _listed(found: Sequence[Hold], now: float) -> str:
    headings = ("scope", "since", "by", "reason", "next try", "last error")
    rows = [
        (
            printable(hold.scope),
            f"{spoken(max(0, now - hold.since))} ago",
            printable(hold.by),
            printable(hold.reason),
            _next_try(hold, now),
            printable(hold.detail) or _NOT_NOW,
        )
        for hold in found
    ]
    return table(headings, rows)


def _next_try(hold: Hold, now: float) -> str:
    # A run is not tried: its budget is no matter of time.
    if hold.is_operators or hold.kind == "run":
        return _NOT_NOW
    if not hold.is_awaited(now):
        return "nobody waits"
    return f"in {spoken(max(0, hold.probe_at - now))}"


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
