"""Redis goes away, or forgets everything, in the middle of a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qaworker import heart
from qaworker.store import heartbeats
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

CHUNKS = 240
FEW_CALLS = {"QAWORKER_CALLS_IN_FLIGHT": "12", "QAWORKER_THREADS": "2"}
OUTAGE_S = 5.0
POOLS: dict[str, dict[str, str]] = {
    "threads": FEW_CALLS,
    "prefork": {"QAWORKER_POOL": "prefork", "QAWORKER_PREFORK_CHILDREN": "2"},
}


# A worker with free slots waits for a message when the connection breaks, a full one does not.
@pytest.mark.slow
@pytest.mark.parametrize("threads", ["2", "64"], ids=["full", "free slots"])
def test_a_run_survives_a_restart_of_redis(
    open_site: Callable[[str], Site], start_redis: Callable[..., RedisServer], threads: str
) -> None:
    server = start_redis(appendonly=True)
    site = open_site(server.url)
    site.simulate("--latency", "1")
    few_calls = FEW_CALLS | {"QAWORKER_THREADS": threads}
    workers = [site.worker(number, **few_calls) for number in (1, 2)]
    client = site.generate(
        site.dataset(CHUNKS), "run", "--use-celery", "-v", QAWORKER_READY_TASKS="2"
    )
    site.wait_calls(CHUNKS // 4)
    server.stop()
    away_since = site.api.stats()["uptime_s"]
    wait_until(lambda: site.api.stats()["uptime_s"] - away_since > OUTAGE_S, 10, "the outage")
    server.start()

    assert client.wait_exit(100) == 0, client.output
    assert "Traceback" not in client.output
    stats = site.api.stats()
    assert stats["max_calls_per_chunk"] == 1
    check_complete(site, "run", CHUNKS)
    for worker in workers:
        check_log(worker, "consumer: Cannot connect", "Couldn't ack")
        assert "DeprecationWarning" not in worker.output


@pytest.mark.slow
def test_a_run_survives_that_redis_is_emptied(site: Site) -> None:
    site.simulate("--latency", "1")
    worker = site.worker(**FEW_CALLS)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    kept = site.settled("run")
    site.redis.flushall()
    charged = site.api.stats()["charged"]
    assert 0 < kept < CHUNKS

    # What was sent is taken for lost after 60 s.
    assert client.wait_exit(110) == 0, client.output
    stats = site.api.stats()
    assert stats["max_calls_per_chunk"] <= 2
    assert stats["charged"] - CHUNKS <= charged - kept
    check_complete(site, "run", CHUNKS)
    check_log(worker)


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_a_stop_while_redis_is_away_ends_in_time(
    open_site: Callable[[str], Site], start_redis: Callable[..., RedisServer], pool: str
) -> None:
    server = start_redis()
    site = open_site(server.url)
    site.simulate("--latency", "2")
    limits = {"QAWORKER_TASK_SOFT_LIMIT_S": "4", "QAWORKER_TASK_HARD_LIMIT_S": "5"}
    worker = site.worker(**limits, **POOLS[pool])
    site.generate(site.dataset(32), "run", "--use-celery")
    site.wait_in_flight(1)
    server.stop()
    worker.terminate()
    worker.wait_exit(5 + heart.DRAIN_GRACE_S + heart.END_GRACE_S + heartbeats.BEAT_INTERVAL_S + 5)
    if pool == "threads":  # under prefork Celery's own time limit ends the tasks
        assert '"drain_takes_too_long"' in worker.output
