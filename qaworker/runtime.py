"""The composition root: builds the clients of a process, once, after any fork."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final

from redis import Redis

from qaworker.engine.engine import Engine, Limits, Shared, running
from qaworker.engine.thread import EngineThread
from qaworker.limits.budget import Budgets
from qaworker.limits.limiter import Limiter
from qaworker.limits.rates import RateTable, rate_table
from qaworker.llm import addresses
from qaworker.llm.client import Client, build_client
from qaworker.llm.generator import Generator
from qaworker.llm.prices import require_price
from qaworker.settings import Settings
from qaworker.store.connections import connect, connect_async
from qaworker.store.holds import WorkerHolds
from qaworker.store.outcomes import OutcomeStore

# What it takes to settle a call, as a rule: it is charged in full until that is done.
RESERVED_BEYOND_A_CALL: Final = timedelta(seconds=10)


def provider(settings: Settings) -> Client:
    """A client of the API, for one event loop.

    Raises:
        ConfigError: the key is missing or no key, or the address is none.
    """
    settings.require_api_key()
    return build_client(
        api_key=settings.openai_api_key.get_secret_value(),
        base_url=settings.openai_base_url,
        calls_in_flight=settings.calls_in_flight,
        timeout_s=settings.call_timeout_s,
    )


def check(settings: Settings) -> None:
    """See that an engine can be built, without one; raises ConfigError as :func:`start` would."""
    provider(settings)
    _rates(settings)


def _rates(settings: Settings) -> RateTable:
    return rate_table(
        settings.openai_base_url, file=settings.limits_file, rpm=settings.rpm, tpm=settings.tpm
    )


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[Engine]:
    """The engine of this process, on the running loop.

    Raises:
        ConfigError: see :func:`provider`; or the file of limits cannot be read.
    """
    limits = Limits(
        calls_in_flight=settings.calls_in_flight,
        call_timeout_s=settings.call_timeout_s,
        soft_limit_s=settings.task_soft_limit_s,
        hard_limit_s=settings.task_hard_limit_s,
    )
    worker = f"{os.uname().nodename}:{os.getpid()}"
    async with connect_async(settings.redis_url) as redis, provider(settings) as client:
        store = OutcomeStore(
            redis,
            owner=worker,
            keep=timedelta(days=settings.outcome_days),
        )
        account = addresses.account(
            settings.openai_base_url, settings.openai_api_key.get_secret_value()
        )
        shared = Shared(
            account,
            Limiter(redis, account, _rates(settings), longest_call_s=settings.call_timeout_s),
            WorkerHolds(redis, worker=worker, keep=timedelta(days=settings.outcome_days)),
            Budgets(
                redis,
                keep=timedelta(days=settings.outcome_days),
                open_for=timedelta(seconds=settings.call_timeout_s) + RESERVED_BEYOND_A_CALL,
            ),
            partial(require_price, own_file=settings.prices_file),
        )
        async with running(Generator(client), store, shared, limits) as engine:
            yield engine


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the tasks of this process use."""

    settings: Settings
    redis: Redis
    engine: EngineThread


_runtime: Runtime | None = None
_lock = threading.Lock()


def start(settings: Settings) -> Runtime:
    """Build this process's runtime, or return the one that exists.

    Raises:
        ConfigError: see :func:`open_engine`.
    """
    global _runtime  # noqa: PLW0603, one runtime a process is the purpose of this module
    with _lock:
        if _runtime is None:
            engine = EngineThread(partial(open_engine, settings))
            engine.start()
            _runtime = Runtime(settings, connect(settings.redis_url), engine)
        return _runtime


def current() -> Runtime | None:
    """This process's runtime, if it was started."""
    return _runtime


def stop() -> None:
    """Close what :func:`start` built; drain first."""
    global _runtime  # noqa: PLW0603, as above
    with _lock:
        if _runtime is not None:
            _runtime.engine.close()
            _runtime.redis.close()
            _runtime = None
