from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.errors import StoreUnavailable
from qaworker.redis_errors import left_out
from qaworker.store import fleet, heartbeats
from qaworker.store.connections import connect
from qaworker.store.heartbeats import FRESH_S, Beat, Farewell

ONE = Beat(
    name="qa_worker-1@host",
    pid=100,
    pool="threads",
    started_at=1.5,
    calls_in_flight=12,
    chunks_done=345,
)
TWO = ONE.model_copy(update={"name": "qa_worker-2@host", "pid": 101})


def age(redis: Any, beat: Beat, seconds: float) -> None:
    """Let a worker's last beat be so old."""
    redis.zincrby(keys.heartbeats(), -seconds, beat.name)


def test_living_workers_are_listed_by_name_as_they_said(redis_client: Redis) -> None:
    for beat in (TWO, ONE, TWO.model_copy(update={"chunks_done": 400})):
        heartbeats.beat(redis_client, beat)
    assert heartbeats.living(redis_client) == [ONE, TWO.model_copy(update={"chunks_done": 400})]


def test_why_a_worker_calls_nobody_is_listed(redis_client: Redis) -> None:
    beat = ONE.model_copy(update={"held": "the API answered 429: no quota"})
    heartbeats.beat(redis_client, beat)
    assert heartbeats.living(redis_client) == [beat]


def test_versions_read_each_others_beats(redis_client: Any) -> None:
    heartbeats.beat(redis_client, ONE)
    said = json.loads(redis_client.get(keys.worker(ONE.name)))
    del said["held"]
    said["mood"] = "of a later version"
    said["state"] = "dreaming"
    redis_client.set(keys.worker(ONE.name), json.dumps(said))
    assert heartbeats.living(redis_client) == [ONE.model_copy(update={"state": "dreaming"})]


def test_a_beat_of_a_name_and_a_pid_is_enough(redis_client: Any) -> None:
    heartbeats.beat(redis_client, ONE)
    redis_client.set(keys.worker(ONE.name), json.dumps({"name": ONE.name, "pid": ONE.pid}))
    assert heartbeats.living(redis_client) == [Beat(name=ONE.name, pid=ONE.pid)]


@pytest.mark.parametrize("blob", ["", "{}", "[1]", '{"name": "x", "pid": 1, "tasks": null}'])
def test_what_cannot_be_read_hides_nobody_else(
    redis_client: Any, capsys: pytest.CaptureFixture[str], blob: str
) -> None:
    for beat in (ONE, TWO):
        heartbeats.beat(redis_client, beat)
    left_out.cache_clear()
    redis_client.set(keys.worker(ONE.name), blob)
    for _ in range(3):
        assert heartbeats.living(redis_client) == [TWO]
    assert "".join(capsys.readouterr()).count("unreadable_in_redis") == 1
    redis_client.set(keys.farewell(ONE.name), blob)
    assert heartbeats.farewell(redis_client, ONE.name) is None


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


def test_what_a_worker_says_at_last_is_kept_until_its_successor_greets(redis_client: Any) -> None:
    last = Farewell(finished=3, handed_back=5)
    heartbeats.forget(redis_client, ONE.name, last)
    assert heartbeats.farewell(redis_client, ONE.name) == last
    heartbeats.greet(redis_client, ONE.name)
    assert heartbeats.farewell(redis_client, ONE.name) is None


def test_a_silent_worker_is_seen_but_does_not_live(redis_client: Any) -> None:
    heartbeats.beat(redis_client, ONE)
    age(redis_client, ONE, 100)
    (found,) = heartbeats.seen(redis_client)
    assert found.beat == ONE
    assert found.age_s == pytest.approx(100, abs=5)
    assert not found.is_living


def test_the_name_says_number_and_host() -> None:
    assert (TWO.number, TWO.host) == (2, "host")
    other = TWO.model_copy(update={"name": "celery@elsewhere"})
    assert (other.number, other.host) == (0, "elsewhere")


def test_a_worker_learns_with_its_beat_that_it_is_to_be_quiet(redis_client: Any) -> None:
    assert not heartbeats.beat(redis_client, ONE)
    fleet.make_quiet(redis_client, [ONE.name])
    assert heartbeats.beat(redis_client, ONE)
    assert not heartbeats.beat(redis_client, TWO)
    fleet.resume(redis_client, [ONE.name])
    assert not heartbeats.beat(redis_client, ONE)


def test_quiet_lasts_until_workers_are_started_on_the_host(redis_client: Any) -> None:
    elsewhere = "qa_worker-1@elsewhere"
    fleet.make_quiet(redis_client, [ONE.name, TWO.name, elsewhere])
    heartbeats.forget(redis_client, ONE.name)
    heartbeats.greet(redis_client, ONE.name)  # as a new process does
    assert fleet.is_quiet(redis_client, ONE.name)
    for _ in range(2):
        fleet.resume_all_on(redis_client, ONE.host)
    quiet = [fleet.is_quiet(redis_client, name) for name in (ONE.name, TWO.name, elsewhere)]
    assert quiet == [False, False, True]


def test_each_host_has_its_expected_number(redis_client: Any) -> None:
    fleet.expect(redis_client, "a", 4)
    fleet.expect(redis_client, "b", 2)
    fleet.expect(redis_client, "a", 0)
    redis_client.hset(keys.expected(), "c", "many")
    assert fleet.expected(redis_client) == {"a": 0, "b": 2}


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
