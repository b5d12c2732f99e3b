"""A client that is killed, interrupted, or started twice: the same command goes on."""

from __future__ import annotations

import signal

import pytest

from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

CHUNKS = 120
FEW_CALLS = {"QAWORKER_CALLS_IN_FLIGHT": "12"}


def test_a_killed_client_goes_on_and_no_chunk_is_called_twice(site: Site) -> None:
    dataset = site.dataset(CHUNKS)
    site.simulate("--latency", "1")
    workers = [site.worker(number, **FEW_CALLS) for number in (1, 2)]
    client = site.generate(dataset, "killed", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    client.kill()
    client.wait_exit(5)
    assert site.api.stats()["calls"] < CHUNKS

    again = site.generate(dataset, "killed", "--use-celery")
    assert again.wait_exit(60) == 0, again.output
    stats = site.api.stats()
    assert stats["max_calls_per_chunk"] == 1
    assert stats["charged"] == CHUNKS
    check_complete(site, "killed", CHUNKS)

    site.redis.flushall()
    site.api.set_latency(0)
    undisturbed = site.generate(dataset, "undisturbed", "--use-celery")
    assert undisturbed.wait_exit(60) == 0, undisturbed.output
    assert site.exports("killed") == site.exports("undisturbed")
    for worker in workers:
        check_log(worker)


@pytest.mark.slow
def test_killed_in_process_only_what_was_in_flight_is_called_again(site: Site) -> None:
    dataset = site.dataset(CHUNKS)
    site.simulate("--latency", "1")
    client = site.generate(dataset, "run", **FEW_CALLS)
    site.wait_stored(CHUNKS // 4)
    client.kill()
    client.wait_exit(5)

    again = site.generate(dataset, "run", **FEW_CALLS)
    # The claims of the killed process expire after 40 s.
    assert again.wait_exit(100) == 0, again.output
    stats = site.api.stats()
    assert stats["max_calls_per_chunk"] <= 2
    assert stats["charged"] - CHUNKS <= int(FEW_CALLS["QAWORKER_CALLS_IN_FLIGHT"])
    check_complete(site, "run", CHUNKS)


# The signals a command gets, and its exit status. `timeout` sends its child TERM twice.
ENDS = {
    "Ctrl-C": ((signal.SIGINT,), 130),
    "TERM": ((signal.SIGTERM, signal.SIGTERM), 143),
    "a hang-up": ((signal.SIGHUP,), 129),
}


@pytest.mark.parametrize("options", [(), ("--use-celery",)], ids=["in process", "celery"])
@pytest.mark.parametrize(("signals", "status"), ENDS.values(), ids=ENDS)
def test_an_interrupted_run_goes_on(
    site: Site, options: tuple[str, ...], signals: tuple[signal.Signals, ...], status: int
) -> None:
    chunks = 40
    dataset = site.dataset(chunks)
    site.simulate("--latency", "0.3")
    if options:
        site.worker(**FEW_CALLS)
    client = site.generate(dataset, "run", *options, **FEW_CALLS)
    site.wait_calls(chunks // 4)
    for number in signals:
        client.signal(number)
    assert client.wait_exit(20) == status
    assert "the same command goes on" in client.output
    assert "Traceback" not in client.output

    again = site.generate(dataset, "run", *options, **FEW_CALLS)
    assert again.wait_exit(60) == 0, again.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", chunks)


def test_a_terminated_collect_goes_on(site: Site) -> None:
    dataset = site.dataset(4)
    site.simulate()
    run = site.directory / "run"
    site.finish(site.command("submit", "--input-file", dataset, "--output", run))
    client = site.command("collect", run, "-v")
    wait_until(lambda: "no worker process answers" in client.output, 30, "the run to wait")
    client.terminate()
    assert client.wait_exit(20) == 143
    assert "0 of 4 chunks have an outcome: the same command goes on" in client.output

    site.worker()
    site.finish(site.command("collect", run))
    check_complete(site, "run", 4)


def test_a_run_directory_admits_one_command(site: Site) -> None:
    dataset = site.dataset(4)
    site.simulate("--latency", "60")
    first = site.generate(dataset, "run")
    site.wait_in_flight(4)
    second = site.generate(dataset, "run")
    assert second.wait_exit(20) == 75
    (line,) = second.output.splitlines()
    assert f"in use by process {first.pid}" in line
    first.check_alive()
