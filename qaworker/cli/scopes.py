"""Which scope a person means who names one, and whether anybody calls for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click
from redis import Redis

from qaworker import keys
from qaworker.cli.table import printable
from qaworker.client import cancelling
from qaworker.errors import StoreUnavailable
from qaworker.limits.states import limiter_states
from qaworker.llm.addresses import account
from qaworker.redis_errors import store_errors
from qaworker.settings import Settings
from qaworker.store import heartbeats, holds
from qaworker.store.connections import connect

# Whoever wants to stop calls should not wait long for the queue's Redis.
QUEUE_TIMEOUT_S = 3.0


def accounts_in_use(redis: Redis) -> frozenset[str]:
    """The accounts of the workers that answer, on all hosts; raises StoreUnavailable."""
    return frozenset(beat.account for beat in heartbeats.living(redis) if beat.account)


def scope_of(text: str, settings: Settings, accounts: frozenset[str]) -> str:
    """The scope that is named; one without an account is of the account that workers use.

    Args:
        text: as people write it; a run may be named by its directory.
        settings: of this command, whose key may be another than the workers', or none.
        accounts: in use; where there is none, this command's counts.

    Raises:
        ConfigError: there is no run in that directory.
        UsageError: it is none, or which account is meant cannot be told.
    """
    kind, _, run = text.partition(":")
    if kind == "run" and (run_id := run_id_meant(run)) != run:
        return holds.run_scope(run_id)
    try:
        scope = holds.parse_scope(text, account_meant(settings, accounts))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if not scope.endswith("@"):
        return scope
    if accounts:
        names = " or ".join(f"{scope}{name}" for name in sorted(accounts))
        raise click.UsageError(f"workers use several accounts, none with this key: give {names}")
    raise click.UsageError(
        f"no worker answers, and OPENAI_API_KEY is not set: name the account, as in {scope}1a2b3c4d"
    )


def run_id_meant(text: str) -> str:
    """The id of the run in a directory; what is none is taken for an id.

    Raises:
        ConfigError: there is no run in that directory.
    """
    # Path.is_dir() raises where a name is longer than a file's can be.
    is_directory = os.path.isdir(text)  # noqa: PTH112
    return cancelling.run_id_of(Path(text)) if is_directory else text


def account_meant(settings: Settings, accounts: frozenset[str]) -> str:
    """This command's account, or that of the workers where they use another; empty where neither is clear."""
    key = settings.openai_api_key.get_secret_value()
    own = account(settings.openai_base_url, key) if key.strip() else ""
    if own in accounts or not accounts:
        return own
    return next(iter(accounts)) if len(accounts) == 1 else ""


def require_use(text: str, scope: str, settings: Settings, redis: Redis) -> None:
    """Raise UsageError where a mistyped name would be held, and stop nobody.

    Args:
        text: as the scope was written.
        scope: that :func:`scope_of` made of it.
        settings: of this command.
        redis: of the outcomes; raises StoreUnavailable when it is away.
    """
    if holds.hold_of(redis, scope) is not None:
        return
    run_id = holds.run_of(scope)
    if run_id:
        if scope == text and not _has_traces(run_id, settings, redis):
            raise click.UsageError(
                f"nothing of run {run_id} waits or is at work: correct its id, or give run:RUN_DIR"
            )
        return
    accounts = accounts_in_use(redis)
    # A command that calls by itself has no heartbeat.
    called = {state.account for state in limiter_states(redis)}
    if accounts and scope.rpartition("@")[2] not in accounts | called:
        names = ", ".join(sorted(accounts))
        raise click.UsageError(f"no worker uses the account of {scope}: they use {names}")


def _has_traces(run_id: str, settings: Settings, redis: Redis) -> bool:
    with store_errors():
        if redis.exists(keys.done(run_id), keys.budget(run_id)):
            return True
    url = settings.broker_url or settings.redis_url
    try:
        with connect(url, timeout_s=QUEUE_TIMEOUT_S) as broker:
            # In this order, as messages go from the queue to a worker.
            waits = cancelling.waiting(broker, run_id).messages
            return bool(waits) or cancelling.delivered(broker, run_id) > 0
    except StoreUnavailable:  # nobody can tell; a stop is not to wait for it
        return True


def doubts(scope: str, redis: Redis) -> Iterator[str]:
    """What whoever held this scope should know; raises StoreUnavailable."""
    if holds.run_of(scope):
        return
    bare, _, whose = scope.rpartition("@")
    accounts = accounts_in_use(redis)
    if not accounts:
        yield "no worker answers: it counts for those that start with this account"
    for other in sorted(accounts - {whose}):
        yield f"workers of another account go on: `qaworker hold set {bare}@{other} …`"
    model = bare.removeprefix("model:")
    called = [state.model for state in limiter_states(redis) if state.account == whose]
    if bare != model and model not in called:
        names = ", ".join(map(printable, called)) or "none"
        yield f"nobody called {printable(model)} within the hour: is it its name? (called: {names})"
