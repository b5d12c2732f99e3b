"""Chunks die of a fault of the API, and are sent again when it is over."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qaworker import keys
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

CHUNKS = 60
FAULT = "--fault=refusal=0.3"


def letters(site: Site, *arguments: str) -> Any:
    """What ``qaworker dead …`` prints as JSON."""
    ran = site.command("dead", *arguments, "--json")
    assert ran.wait_exit(20) == 0, ran.output
    return json.loads(ran.output)


@pytest.mark.slow
def test_a_run_is_complete_after_its_dead_chunks_were_requeued(site: Site) -> None:
    site.simulate(FAULT)
    worker = site.worker()
    dataset = site.dataset(CHUNKS)
    assert site.generate(dataset, "run", "--use-celery").wait_exit(60) == 1
    before = site.summary("run")
    dead = before["outcomes"]["dead"]
    assert dead > 0
    listed = letters(site, "list", "--run", str(site.directory / "run"))
    assert len(listed) == dead
    assert {(one["reason"], one["queue"]) for one in listed} == {("refused", "qa_generation")}
    assert {one["calls"] for one in listed} == {1}
    assert f"Dead letters: {dead}, of the last hour: {dead} (" in site.status(exit_code=0)

    # As long as nobody requeues, the same command sends nothing.
    site.api.set_faults()
    site.api.reset_stats()
    assert site.generate(dataset, "run", "--use-celery").wait_exit(60) == 1
    assert site.api.stats()["calls"] == 0

    assert letters(site, "requeue", "--yes", "--reason", "refused")["sent"] == dead
    again = site.generate(dataset, "run", "--use-celery")
    assert again.wait_exit(60) == 0, again.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["calls"] == dead
    assert site.api.stats()["max_calls_per_chunk"] == 1
    after = site.summary("run")
    assert after["calls"] == before["calls"] + dead
    assert letters(site, "list") == []
    check_log(worker)


@pytest.mark.slow
def test_a_command_at_work_takes_the_new_outcomes(site: Site) -> None:
    calls_in_flight = 4
    site.simulate(FAULT, "--latency", "0.4")
    worker = site.worker(1, QAWORKER_CALLS_IN_FLIGHT=str(calls_in_flight))
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    wait_until(lambda: site.redis.zcard(keys.letters()), 30, "a chunk to die")
    site.api.set_faults()
    # Those on the wire may have met the fault still.
    site.wait_calls(site.api.stats()["calls"] + 2 * calls_in_flight)
    # The run must not be over before the requeue, which takes seconds to start on a slow machine.
    site.api.set_latency(2)
    assert letters(site, "requeue", "--yes")["sent"] > 0
    assert client.exit_code is None, client.output
    site.api.set_latency(0.4)
    assert client.wait_exit(60) == 0, client.output
    check_complete(site, "run", CHUNKS)
    check_log(worker)


@pytest.mark.slow
def test_a_run_without_workers_makes_the_calls_itself(site: Site) -> None:
    site.simulate(FAULT)
    dataset = site.dataset(CHUNKS)
    assert site.generate(dataset, "run").wait_exit(60) == 1
    dead = site.summary("run")["outcomes"]["dead"]
    site.api.set_faults()
    site.api.reset_stats()
    assert letters(site, "requeue", "--yes") == {"sent": 0, "unsent": dead, "refused": {}}
    again = site.generate(dataset, "run")
    assert again.wait_exit(30) == 0, again.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["calls"] == dead
