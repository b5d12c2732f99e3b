"""A run that is cancelled while workers and its client are at work goes on as if nothing was."""

from __future__ import annotations

import pytest

from qaworker import keys
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

CHUNKS = 160
# Two of ten tasks are taken, the others wait.
FEW_TASKS = {"QAWORKER_THREADS": "2", "QAWORKER_CALLS_IN_FLIGHT": "16"}
# What got lost otherwise is sent again after 60 s.
AT_ONCE_S = 40


def waiting(site: Site) -> int:
    return int(sum(site.redis.llen(keys.queue(name)) for name in keys.QUEUES))


def test_a_cancelled_run_ends_and_others_do_not(site: Site) -> None:
    site.simulate("--latency", "1")
    worker = site.worker(**FEW_TASKS)
    dataset = site.dataset(CHUNKS)
    client = site.generate(dataset, "run", "--use-celery")
    site.wait_in_flight(16)
    other = site.dataset(32, first=CHUNKS)
    place = site.directory / "other"
    site.finish(site.command("submit", "--input-file", other, "--output", place))
    assert waiting(site) > 2

    cancel = site.command("cancel", site.directory / "run", "--yes")
    assert cancel.wait_exit(20) == 0, cancel.output
    assert "runs: 1)" in cancel.output
    assert client.wait_exit(15) == 75
    assert client.output.splitlines()[-1] == (
        "qaworker: the run was cancelled: the same command goes on"
    )
    collect = site.command("collect", place)
    assert collect.wait_exit(AT_ONCE_S) == 0, collect.output
    check_complete(site, "other", 32)
    # Those of the cancelled run that the worker held.
    wait_until(lambda: not site.redis.hlen(keys.unacked()), 20, "the worker to be done")
    assert waiting(site) == 0
    assert site.api.stats()["calls"] < CHUNKS

    site.api.set_latency(0)
    again = site.generate(dataset, "run", "--use-celery")
    assert again.wait_exit(AT_ONCE_S) == 0, again.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_log(worker)


def test_when_all_is_cancelled_whatever_was_sent_goes_on_at_once(site: Site) -> None:
    site.simulate()
    datasets = [site.dataset(40), site.dataset(40, first=40)]
    place = site.directory / "submitted"
    site.finish(site.command("submit", "--input-file", datasets[0], "--output", place))
    client = site.generate(datasets[1], "run", "--use-celery")
    wait_until(lambda: waiting(site) == 6, 30, "two runs of three tasks")

    cancel = site.command("cancel", "--all", "--yes")
    assert cancel.wait_exit(20) == 0, cancel.output
    assert "removed messages: 6 (chunks: 80, runs: 2)" in cancel.output
    assert client.wait_exit(15) == 75, client.output
    assert waiting(site) == 0

    worker = site.worker()
    again = site.generate(datasets[1], "run", "--use-celery")
    collect = site.command("collect", place)
    for command in (again, collect):
        assert command.wait_exit(AT_ONCE_S) == 0, command.output
    check_complete(site, "run", 40)
    check_complete(site, "submitted", 40)
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_log(worker)
