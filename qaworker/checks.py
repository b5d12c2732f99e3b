"""The checks of ``qaworker check``: one finding each, OK or FAILED and why."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from qaworker import runtime
from qaworker.app import configuration
from qaworker.errors import ProviderUnavailable, QAWorkerError
from qaworker.llm.client import check_model
from qaworker.logs import redact
from qaworker.owners import choosing
from qaworker.owners.owner import Owner
from qaworker.redis_errors import store_errors
from qaworker.settings import Settings
from qaworker.store import fleet, heartbeats, holds
from qaworker.store.connections import connect
from qaworker.store.heartbeats import Beat
from qaworker.store.holds import Hold

# A ledger of a million chunks and its exports.
LEAST_FREE_BYTES: Final = 2 * 2**30


class CheckFailed(Exception):
    """A check found something wrong; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    name: str
    is_ok: bool
    text: str


def run_checks(settings: Settings) -> Iterator[Finding]:
    """Check what a run needs, in the order in which it would fail."""
    yield finding("settings", lambda: _settings(settings))
    yield finding("redis", lambda: _redis(settings.redis_url, "REDIS_URL"))
    if settings.broker_url not in {"", settings.redis_url}:
        yield finding("broker", lambda: _redis(settings.broker_url, "CELERY_BROKER_URL"))
    yield finding("workers", lambda: _workers(settings))
    yield finding("owner", lambda: _owner(choosing.in_charge(settings), settings.stop_timeout_s))
    yield finding("api", lambda: asyncio.run(_api(settings)))
    yield finding("disk", lambda: _disk(settings.runs_dir))


def finding(name: str, check: Callable[[], str]) -> Finding:
    """What ``check`` returns or raises, without secrets; no error of it ends the other checks."""
    try:
        return Finding(name, True, redact(check()))
    except (CheckFailed, QAWorkerError) as error:
        return Finding(name, False, redact(str(error)))
    except Exception as error:  # noqa: BLE001, a library's surprise is a finding too
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, False, redact(text))


def _settings(settings: Settings) -> str:
    settings.require_api_key()
    configuration(settings)
    return f"model {settings.model}, {settings.pool}, {settings.calls_in_flight} calls a process"


def _redis(url: str, variable: str) -> str:
    redis: Any
    with connect(url) as redis, store_errors(variable):
        started_at = time.perf_counter()
        redis.ping()
        latency_ms = (time.perf_counter() - started_at) * 1000
        server = redis.info("server")
        memory = redis.info("memory")
        persistence = redis.info("persistence")
    policy = memory.get("maxmemory_policy", "noeviction")
    if memory.get("maxmemory") and policy != "noeviction":
        raise CheckFailed(
            f"maxmemory-policy is {policy}: set it to noeviction, or Redis drops messages"
        )
    kept = "append-only file" if persistence.get("aof_enabled") else "no append-only file"
    return f"version {server['redis_version']}, {latency_ms:.1f} ms, {kept}"


def _workers(settings: Settings) -> str:
    with connect(settings.redis_url) as redis:
        living = heartbeats.living(redis)
        expected = fleet.expected(redis)
        held = {hold.scope: hold for hold in holds.holds(redis)}
    if not living:
        raise CheckFailed(
            "no worker process answers: start them with `bin/start_celery.sh start`,"
            " or one with `qaworker worker`"
        )
    if (other := heartbeats.calling_another(living, settings.openai_base_url)) is not None:
        raise CheckFailed(
            f"{other.name} calls {other.api}, and this command {settings.openai_base_url}:"
            " give both the same OPENAI_BASE_URL"
        )
    _refuse_fewer(living, expected)
    _refuse_held(living, held, settings.model)
    if quiet := [beat.name for beat in living if beat.state == "quiet"]:
        raise CheckFailed(f"quiet: {', '.join(quiet)}: `qaworker drain --resume` ends that")
    consuming = [beat.name for beat in living if beat.state != "draining"]
    if not consuming:
        raise CheckFailed("all workers are ending: `qaworker status` says who starts others")
    return f"{len(consuming)} consume: {', '.join(consuming)}"


def _refuse_fewer(living: Sequence[Beat], expected: Mapping[str, int]) -> None:
    on = Counter(beat.host for beat in living)
    for host, workers in sorted(expected.items()):
        if on[host] < workers:
            raise CheckFailed(
                f"{on[host]} of {workers} answer on {host}: `qaworker status` there says why"
            )


def _refuse_held(living: Sequence[Beat], held: Mapping[str, Hold], model: str) -> None:
    for account in sorted({beat.account for beat in living}):
        for scope in (holds.account_scope(account), holds.model_scope(account, model)):
            if (hold := held.get(scope)) is not None:
                why = f"{hold.reason}: {hold.detail}" if hold.detail else hold.reason
                raise CheckFailed(f"{scope} is held ({why}): `qaworker status` says what ends it")


def _owner(owner: Owner | None, needed_s: float) -> str:
    """Whether a stop may take as long as a task."""
    if owner is None:
        return "none is in charge of this host's workers"
    granted_s = owner.stop_timeout_s()
    if granted_s is None:
        return f"{owner.name}; how long it waits for a stop is not known"
    if granted_s < needed_s:
        # Each writes the figure anew, from the settings.
        by_systemd = owner.name == "systemd"
        mend = "sudo deploy/install.sh" if by_systemd else "bin/start_celery.sh restart"
        raise CheckFailed(
            f"{owner.name} waits {granted_s:g} s for a stop, which may take {needed_s:g} s: `{mend}`"
        )
    return f"{owner.name} waits {granted_s:g} s for a stop"


async def _api(settings: Settings) -> str:
    async with runtime.provider(settings) as client:
        try:
            await check_model(client, settings.model)
        except ProviderUnavailable as error:
            raise CheckFailed(f"{error}: start it, or correct OPENAI_BASE_URL") from error
    return f"{settings.openai_base_url} offers {settings.model}"


def _disk(runs_dir: Path) -> str:
    place = next(path for path in (runs_dir, *runs_dir.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise CheckFailed(
            f"{place} cannot be written ({error.strerror}): correct it, or set QAWORKER_RUNS_DIR"
        ) from error
    free = shutil.disk_usage(place).free
    if free < LEAST_FREE_BYTES:
        raise CheckFailed(
            f"{free / 2**30:.1f} GiB free at {place}: free some, or set QAWORKER_RUNS_DIR"
        )
    return f"{free / 2**30:.0f} GiB free at {place}"
