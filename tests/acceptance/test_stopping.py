"""A worker that is killed or told to stop while it has calls on the wire."""

from __future__ import annotations

import itertools
import signal

import pytest

from qaworker import keys
from qaworker.client.driver import CHUNKS_PER_TASK
from qaworker.store import fleet, heartbeats
from tests.acceptance.site import Site, check_complete, check_log, events
from tests.support.waiting import wait_until

CHUNKS = 72
# Where kombu keeps the messages that a worker holds.
UNACKED = f"{keys.PREFIX}unacked"
POOLS = {
    "threads": {"QAWORKER_CALLS_IN_FLIGHT": "12"},
    "prefork": {"QAWORKER_POOL": "prefork", "QAWORKER_PREFORK_CHILDREN": "2"},
}


@pytest.mark.parametrize("pool", POOLS)
def test_a_stopped_worker_loses_nothing(site: Site, pool: str) -> None:
    dataset = site.dataset(CHUNKS)
    site.simulate("--latency", "1")
    worker = site.worker(1, **POOLS[pool])
    client = site.generate(dataset, "run", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    worker.terminate()
    assert worker.wait_exit(20) == 0
    check_log(worker)
    stats = site.api.stats()
    assert stats["abandoned"] == 0
    assert stats["calls"] < CHUNKS
    # Nothing waits for a visibility timeout: all of it is back in the queue.
    assert site.redis.hlen(UNACKED) == 0
    assert not site.redis.keys(keys.claim("*"))
    assert not site.redis.zcard(keys.heartbeats())

    other = site.worker(2, **POOLS[pool])
    assert client.wait_exit(30) == 0, client.output
    stats = site.api.stats()
    assert stats["max_calls_per_chunk"] == 1
    check_complete(site, "run", CHUNKS)
    check_log(other)


def test_a_worker_that_must_end_now_hands_everything_back(site: Site) -> None:
    """QUIT, where calls take longer than anybody wants to wait: they are cancelled."""
    dataset = site.dataset(CHUNKS)
    site.simulate("--latency", "50")
    worker = site.worker(1, **POOLS["threads"])
    client = site.generate(dataset, "run", "--use-celery")
    site.wait_in_flight(12)
    worker.terminate()
    worker.signal(signal.SIGQUIT)
    assert worker.wait_exit(5) == 0
    check_log(worker)
    assert site.redis.hlen(UNACKED) == 0
    assert not site.redis.keys(keys.claim("*"))
    assert not site.redis.keys(keys.outcome("*"))
    last = heartbeats.farewell(site.redis, worker.name)
    assert last is not None
    assert (last.finished, last.handed_back) == (0, -(-CHUNKS // CHUNKS_PER_TASK))

    site.api.set_latency(0.1)
    other = site.worker(2, **POOLS["threads"])
    assert client.wait_exit(30) == 0, client.output
    # The calls that were given up cost no attempt, and nobody else's were made twice.
    assert site.api.stats()["max_calls_per_chunk"] <= 2
    check_complete(site, "run", CHUNKS)
    check_log(other)


@pytest.mark.parametrize("pool", POOLS)
def test_a_quiet_worker_finishes_what_it_has_and_takes_nothing_new(site: Site, pool: str) -> None:
    site.simulate("--latency", "0.5")
    worker = site.worker(1, **POOLS[pool])
    first = site.generate(site.dataset(8), "first", "--use-celery")
    site.wait_in_flight(1)
    fleet.make_quiet(site.redis, [worker.name])

    def state() -> tuple[str, int]:
        (beat,) = heartbeats.living(site.redis)
        return beat.state, beat.tasks

    wait_until(lambda: state() == ("quiet", 0), 20, "the worker to be quiet")
    assert first.wait_exit(20) == 0, first.output
    second = site.generate(site.dataset(8, first=100), "second", "--use-celery")
    queue = keys.queue(keys.DEFAULT_QUEUE)
    wait_until(lambda: site.redis.llen(queue), 20, "a message")
    # Two beats: time enough to take it.
    seen_at = site.redis.zscore(keys.heartbeats(), worker.name)
    beats = 2 * heartbeats.BEAT_INTERVAL_S
    wait_until(
        lambda: site.redis.zscore(keys.heartbeats(), worker.name) >= seen_at + beats, 20, "beats"
    )
    assert site.redis.llen(queue) == 1
    assert site.api.stats()["calls"] == 8
    fleet.resume(site.redis, [worker.name])
    assert second.wait_exit(30) == 0, second.output
    check_complete(site, "second", 8)
    check_log(worker)


@pytest.mark.slow
def test_the_chunks_of_a_killed_worker_are_done_by_another(site: Site) -> None:
    dataset = site.dataset(CHUNKS)
    site.simulate("--latency", "2")
    killed = site.worker(1, **POOLS["threads"])
    other = site.worker(2, **POOLS["threads"])
    client = site.generate(dataset, "run", "--use-celery")
    site.wait_stored(CHUNKS // 4)
    killed.kill()
    killed.wait_exit(5)
    assert site.redis.hlen(UNACKED) > 0

    # A visibility timeout of 40 s, a sweep every 5 s, and what is left of the run.
    assert client.wait_exit(60) == 0, client.output
    stats = site.api.stats()
    assert stats["max_calls_per_chunk"] <= 2
    assert stats["charged"] - CHUNKS <= int(POOLS["threads"]["QAWORKER_CALLS_IN_FLIGHT"])
    check_complete(site, "run", CHUNKS)
    check_log(other)


@pytest.mark.slow
def test_a_worker_looks_for_what_the_dead_left_every_five_seconds(site: Site) -> None:
    site.simulate()
    site.worker()
    with site.redis.monitor() as monitor:
        sweeps = (
            seen["time"]
            for seen in monitor.listen()
            if f"{UNACKED}_index" in seen["command"] and "BYSCORE" in seen["command"]
        )
        first, second, third = itertools.islice(sweeps, 3)
    assert third - first == pytest.approx(10, abs=4)
    assert second > first


@pytest.mark.slow
def test_a_worker_that_did_its_share_replaces_itself(site: Site) -> None:
    site.simulate()
    worker = site.worker(QAWORKER_MAX_CHUNKS="10")
    for first, run in ((0, "before"), (1000, "after")):
        client = site.generate(site.dataset(CHUNKS, first=first), run, "--use-celery")
        assert client.wait_exit(60) == 0, client.output
        check_complete(site, run, CHUNKS)
        if run == "before":
            wait_until(
                lambda: any(event["event"] == "worker_is_replaced" for event in events(worker)),
                15,
                "the worker to be replaced",
            )
    assert site.api.stats()["max_calls_per_chunk"] == 1
    worker.check_alive()
    check_log(worker)
