from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.errors import StoreUnavailable
from qaworker.store import heartbeats
from qaworker.store.connections import connect
from qaworker.store.heartbeats import FRESH_S, Beat

ONE = Beat("qa_worker-1@host", 100, "threads", 1.5, 12, 345)
TWO = replace(ONE, name="qa_worker-2@host", pid=101)


def age(redis: Any, beat: Beat, seconds: float) -> None:
    """Let a worker's last beat be so old."""
    redis.zincrby(keys.heartbeats(), -seconds, beat.name)


def test_living_workers_are_listed_by_name_as_they_said(redis_client: Redis) -> None:
    for beat in (TWO, ONE, replace(TWO, chunks_done=400)):
        heartbeats.beat(redis_client, beat)
    assert heartbeats.living(redis_client) == [ONE, replace(TWO, chunks_done=400)]


def test_why_a_worker_calls_nobody_is_listed(redis_client: Redis) -> None:
    beat = replace(ONE, held="the API answered 429: no quota")
    heartbeats.beat(redis_client, beat)
    assert heartbeats.living(redis_client) == [beat]


def test_a_worker_that_says_nothing_of_it_calls(redis_client: Any) -> None:
    """One that was started before the field was there."""
    heartbeats.beat(redis_client, ONE)
    said = json.loads(redis_client.get(keys.worker(ONE.name)))
    del said["held"]
    redis_client.set(keys.worker(ONE.name), json.dumps(said))
    assert heartbeats.living(redis_client) == [ONE]


def test_without_workers_nobody_lives(redis_client: Redis) -> None:
    assert heartbeats.living(redis_client) == []


@pytest.mark.parametrize(("seconds", "lives"), [(FRESH_S - 5, True), (FRESH_S + 1, False)])
def test_a_worker_that_missed_three_beats_does_not_live(
    redis_client: Redis, seconds: float, lives: bool
) -> None:
    heartbeats.beat(redis_client, ONE)
    age(redis_client, ONE, seconds)
    assert heartbeats.living(redis_client) == ([ONE] if lives else [])


def test_a_worker_that_ended_in_order_is_forgotten(redis_client: Any) -> None:
    heartbeats.beat(redis_client, ONE)
    heartbeats.beat(redis_client, TWO)
    heartbeats.forget(redis_client, ONE.name)
    assert heartbeats.living(redis_client) == [TWO]
    assert not redis_client.exists(keys.worker(ONE.name))


def test_workers_of_the_day_before_leave_nothing_behind(redis_client: Any) -> None:
    heartbeats.beat(redis_client, ONE)
    assert 0 < redis_client.ttl(keys.worker(ONE.name)) <= 24 * 3600
    age(redis_client, ONE, 25 * 3600)
    heartbeats.beat(redis_client, TWO)
    assert redis_client.zrange(keys.heartbeats(), 0, -1) == [TWO.name.encode()]


@pytest.mark.parametrize(
    "call",
    [
        lambda redis: heartbeats.beat(redis, ONE),
        lambda redis: heartbeats.forget(redis, ONE.name),
        heartbeats.living,
    ],
    ids=["beat", "forget", "living"],
)
def test_without_redis_there_is_our_error(tmp_path: Path, call: Callable[[Redis], object]) -> None:
    with connect(f"unix://{tmp_path}/no.sock") as redis, pytest.raises(StoreUnavailable):
        call(redis)
