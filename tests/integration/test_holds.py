"""Holds in a real Redis, set and probed by several workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import pytest
from redis import Redis

from qaworker import keys
from qaworker.errors import StoreUnavailable
from qaworker.store.connections import connect, connect_async
from qaworker.store.holds import (
    LONGEST_DETAIL,
    OPERATOR,
    PROBE_EVERY,
    WorkerHolds,
    account_scope,
    holds,
    model_scope,
    release,
    run_scope,
    set_hold,
)

T = TypeVar("T")

SCOPE = account_scope("1a2b3c4d")
NOW = timedelta(0)
KEEP = timedelta(days=30)


def with_workers(
    url: str, scenario: Callable[..., Awaitable[T]], names: Sequence[str] = ("w-1@host",)
) -> T:
    """Run a scenario with what each worker has for holds."""

    async def host() -> T:
        clients = [connect_async(url) for _ in names]
        try:
            return await scenario(
                *(WorkerHolds(c, worker=n, keep=KEEP) for c, n in zip(clients, names, strict=True))
            )
        finally:
            for client in clients:
                await client.aclose()

    return asyncio.run(host())


def now_s(redis: Any) -> float:
    seconds, microseconds = redis.time()
    return float(seconds + microseconds / 1e6)


def test_what_was_held_first_is_held_since_then_for_its_latest_reason(
    redis_url: str, redis_client: Redis
) -> None:
    began_s = now_s(redis_client)

    async def scenario(one: WorkerHolds, other: WorkerHolds) -> None:
        assert await one.set_hold(SCOPE, "quota", detail="no quota")
        assert not await other.set_hold(
            SCOPE, "auth", detail="key sk-abcdefghijkl 拒否" + "x" * 999
        )
        assert await other.holds() == holds(redis_client)

    with_workers(redis_url, scenario, ["w-1@host", "w-2@host"])
    [hold] = holds(redis_client)
    assert (hold.scope, hold.reason, hold.by) == (SCOPE, "auth", "w-2@host")
    assert hold.detail.startswith("key *** 拒否x")
    assert len(hold.detail) == LONGEST_DETAIL
    assert began_s - 0.01 <= hold.since <= now_s(redis_client) + 0.01
    assert hold.probe_at - hold.since == pytest.approx(PROBE_EVERY.total_seconds(), abs=0.01)


def test_one_worker_of_all_probes_in_an_interval(redis_url: str, redis_client: Redis) -> None:
    async def scenario(*workers: WorkerHolds) -> None:
        await workers[0].set_hold(SCOPE, "quota")
        # Who set it has just failed: the first probe is not at once.
        assert not await workers[0].next_probe(SCOPE)
        make_due(redis_client)
        granted = await asyncio.gather(*(w.next_probe(SCOPE, PROBE_EVERY) for w in workers * 8))
        assert sum(granted) == 1
        make_due(redis_client)
        assert await workers[1].next_probe(SCOPE, NOW)
        assert await workers[0].next_probe(SCOPE)
        assert not await workers[1].next_probe(SCOPE)

    with_workers(redis_url, scenario, ["w-1@host", "w-2@host", "w-3@host"])


def make_due(redis: Any) -> None:
    """Let the time until the next probe be over."""
    [hold] = holds(redis)
    due = hold.model_copy(update={"probe_at": hold.since})
    redis.hset(keys.holds(), SCOPE, due.model_dump_json())


def test_what_nobody_holds_is_not_probed(redis_url: str) -> None:
    async def scenario(worker: WorkerHolds) -> None:
        assert not await worker.next_probe(SCOPE, NOW)
        assert await worker.holds() == []
        assert not await worker.release(SCOPE)

    with_workers(redis_url, scenario)


def test_a_worker_releases_what_a_worker_held(redis_url: str, redis_client: Redis) -> None:
    other = model_scope("1a2b3c4d", "gpt-5-mini")

    async def scenario(one: WorkerHolds, two: WorkerHolds) -> None:
        await one.set_hold(SCOPE, "quota")
        await one.set_hold(other, "model_refused")
        assert await two.release(SCOPE)
        assert not await one.release(SCOPE)

    with_workers(redis_url, scenario, ["w-1@host", "w-2@host"])
    assert [hold.scope for hold in holds(redis_client)] == [other]


@pytest.mark.parametrize("held_before", [True, False])
def test_what_an_operator_holds_only_an_operator_releases(
    redis_url: str, redis_client: Redis, held_before: bool
) -> None:
    async def scenario(worker: WorkerHolds) -> None:
        if held_before:
            await worker.set_hold(SCOPE, "quota", detail="no quota")
        assert set_hold(redis_client, SCOPE, "月末まで") != held_before
        make_due(redis_client)
        assert not await worker.next_probe(SCOPE, NOW)
        assert not await worker.release(SCOPE)
        assert not await worker.set_hold(SCOPE, "auth", detail="no key")

    with_workers(redis_url, scenario)
    [hold] = holds(redis_client)
    assert (hold.by, hold.reason, hold.detail) == (OPERATOR, "月末まで", "no key")
    assert hold.is_operators
    assert release(redis_client, SCOPE)
    assert not release(redis_client, SCOPE)
    assert holds(redis_client) == []


def test_a_run_is_held_for_as_long_as_it_is_known_unless_an_operator_wants_it(
    redis_url: str, redis_client: Redis
) -> None:
    scopes = [run_scope("spent"), run_scope("stopped"), run_scope("new"), SCOPE]
    by = {run_scope("stopped"): OPERATOR}
    for scope in scopes:
        set_hold(redis_client, scope, "budget", by=by.get(scope, "w-1@host"))
    for hold in holds(redis_client):
        if hold.scope != run_scope("new"):
            old = hold.model_copy(update={"since": hold.since - KEEP.total_seconds()})
            redis_client.hset(keys.holds(), hold.scope, old.model_dump_json())

    async def scenario(worker: WorkerHolds) -> None:
        assert {hold.scope for hold in await worker.holds()} == set(scopes[1:])

    with_workers(redis_url, scenario)
    assert {hold.scope for hold in holds(redis_client)} == set(scopes[1:])


@pytest.mark.parametrize("blob", ["", "{}", '{"scope": "account@1", "since": "long ago"}'])
def test_a_hold_that_cannot_be_read_hides_no_other(
    redis_url: str, redis_client: Redis, blob: str
) -> None:
    set_hold(redis_client, SCOPE, "tariff")
    redis_client.hset(keys.holds(), "region:eu", blob)

    async def scenario(worker: WorkerHolds) -> None:
        assert [hold.scope for hold in await worker.holds()] == [SCOPE]

    with_workers(redis_url, scenario)
    assert [hold.scope for hold in holds(redis_client)] == [SCOPE]


def test_a_redis_that_is_away_is_said_in_our_words(tmp_path: Any) -> None:
    url = f"unix://{tmp_path}/no.sock"
    with connect(url) as redis:
        for attempt in (holds, lambda r: release(r, SCOPE), lambda r: set_hold(r, SCOPE, "x")):
            with pytest.raises(StoreUnavailable):
                attempt(redis)

    async def scenario(worker: WorkerHolds) -> None:
        for attempt in (
            worker.holds(),
            worker.release(SCOPE),
            worker.set_hold(SCOPE, "x"),
            worker.next_probe(SCOPE),
        ):
            with pytest.raises(StoreUnavailable):
                await attempt

    with_workers(url, scenario)
