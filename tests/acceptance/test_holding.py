"""The account breaks, or the API is down, in the middle of a run: nobody calls, and nothing is dead."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.site import Site, check_complete, check_log, events
from tests.support.processes import Process
from tests.support.waiting import wait_until

CHUNKS = 400
CALLS = 8
FEW_CALLS = {"QAWORKER_CALLS_IN_FLIGHT": str(CALLS), "QAWORKER_RPM": "0", "QAWORKER_TPM": "0"}
OUTAGE_S = 45.0
GOES_ON_S = 20.0


def held(site: Site) -> list[dict[str, Any]]:
    """What ``qaworker hold list`` says."""
    command = site.command("hold", "list", "--json")
    site.finish(command)
    found: list[dict[str, Any]] = json.loads(command.output)
    return found


def half_done(site: Site) -> tuple[list[Process], Process]:
    """Two workers in the middle of a run, and its client."""
    site.simulate("--latency", "0.3")
    workers: list[Process] = [site.worker(number, **FEW_CALLS) for number in (1, 2)]
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery", **FEW_CALLS)
    site.wait_calls(CHUNKS // 3)
    return workers, client


def check_went_on(site: Site, workers: list[Process], client: Process) -> None:
    """The run ends by itself."""
    assert client.wait_exit(60) == 0, client.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1
    assert held(site) == []
    assert "Held:" not in site.status(exit_code=0)
    for worker in workers:
        check_log(worker, "calls_held")


def failures(site: Site) -> int:
    return sum(count for status, count in site.api.stats()["answers"].items() if status != "200")


@pytest.mark.slow
def test_a_quota_that_ends_holds_all_workers_until_there_is_one_again(site: Site) -> None:
    workers, client = half_done(site)
    site.api.set_faults(quota=1)
    ends_s = site.api.stats()["uptime_s"]
    wait_until(lambda: failures(site), 5, "the first refusal")
    [hold] = held(site)
    assert site.api.stats()["uptime_s"] - ends_s < 5
    assert hold["scope"].startswith("account@")
    assert hold["reason"] == "halted"
    assert "insufficient_quota" in hold["detail"]
    page = site.status(exit_code=1)
    assert "Workers: degraded (the account is held, 2 consume" in page
    assert f"Held: {hold['scope']} since " in page
    assert f"`qaworker hold release {hold['scope']}`" in page
    [limiter] = [line for line in page.splitlines() if line.startswith("gpt-5-mini ")]
    assert "no limit" in limiter
    wait_until(lambda: site.api.stats()["uptime_s"] - ends_s > 10, 20, "the last refusals")
    assert failures(site) <= 2 * CALLS
    # Then one call of both tries every 15 s.
    wait_until(lambda: site.api.stats()["uptime_s"] - ends_s > 35, 40, "two probes")
    assert 1 <= sum(e["event"] == "probes" for worker in workers for e in events(worker)) <= 2
    assert failures(site) <= 2 * CALLS + 2

    site.api.set_faults()
    check_went_on(site, workers, client)


@pytest.mark.slow
def test_an_api_that_is_down_is_waited_for(site: Site) -> None:
    workers, client = half_done(site)
    down_s = site.api.stats()["uptime_s"]
    site.api.set_faults(**{"503": 1})
    wait_until(lambda: held(site), 15, "the hold")
    [hold] = held(site)
    assert hold["reason"] == "provider_down"
    wait_until(lambda: site.api.stats()["uptime_s"] - down_s > OUTAGE_S, 60, "the outage")
    answered = site.api.stats()["calls"]
    site.api.set_faults()
    wait_until(lambda: site.api.stats()["calls"] > answered + 1, GOES_ON_S, "calls to go on")
    check_went_on(site, workers, client)
