"""A worker that is killed or told to stop while it has calls on the wire."""

from __future__ import annotations

import itertools

import pytest

from qaworker import keys
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
