"""The API answers badly, or not at all."""

from __future__ import annotations

import json

import pytest

from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

CHUNKS = 300
FAULTS = {"429": 0.05, "500": 0.05, "malformed": 0.05, "truncated": 0.05, "refusal": 0.02}


@pytest.mark.slow
def test_every_chunk_has_one_outcome_whatever_the_api_does(site: Site) -> None:
    faults = [f"--fault={kind}={rate}" for kind, rate in FAULTS.items()]
    site.simulate("--latency", "0.05", *faults)
    worker = site.worker()
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery", "--json")
    code = client.wait_exit(110)
    summary = site.summary("run")
    outcomes = summary["outcomes"]
    assert summary["chunks"] == CHUNKS
    assert sum(outcomes.values()) == CHUNKS
    assert summary["reconciles"]
    assert site.settled("run") == CHUNKS
    assert outcomes["dead"] > 0
    assert code == 1
    reasons = summary["reasons"]["dead"]
    assert sum(reasons.values()) == outcomes["dead"]
    assert reasons["refused"] > 0
    assert reasons.keys() <= {"refused", "invalid", "truncated"}
    # Every kind of fault was met, and only refusals were final for many.
    stats = site.api.stats()
    assert stats["faults"].keys() == FAULTS.keys()
    assert reasons["refused"] == stats["faults"]["refusal"]
    assert outcomes["ok"] > CHUNKS * 0.9
    assert summary["calls"] >= stats["charged"]
    check_log(worker)


@pytest.mark.slow
def test_workers_wait_while_the_account_is_broken(site: Site) -> None:
    chunks = 40
    site.simulate("--fault", "auth=1")
    worker = site.worker()
    client = site.generate(site.dataset(chunks), "run", "--use-celery")
    wait_until(lambda: '"calls_held"' in worker.output, 30, "the account to be held")
    # What was on the wire is refused within these seconds; then there is a probe every 15 s.
    held_s = site.api.stats()["uptime_s"]
    wait_until(lambda: site.api.stats()["uptime_s"] > held_s + 5, 10, "the last refusals")
    refused = site.api.stats()["requests"]
    assert refused <= chunks
    wait_until(lambda: site.api.stats()["uptime_s"] > held_s + 25, 30, "a probe")
    assert refused < site.api.stats()["requests"] <= refused + 2
    assert site.settled("run") == 0

    site.api.set_faults()
    assert client.wait_exit(60) == 0, client.output
    check_complete(site, "run", chunks)
    check_log(worker, "calls_held")


def test_without_workers_a_broken_account_ends_the_command(site: Site) -> None:
    site.simulate("--fault", "quota=1")
    dataset = site.dataset(10)
    client = site.generate(dataset, "run")
    assert client.wait_exit(20) == 69
    lines = client.output.splitlines()
    assert [line for line in lines if line.startswith("qaworker: ")] == lines[-1:]
    assert "Traceback" not in client.output
    assert site.settled("run") == 0

    site.api.set_faults()
    # The hold stays until a probe shows that it need not.
    again = site.generate(dataset, "run", "--json")
    assert again.wait_exit(40) == 0
    assert json.loads(again.output.splitlines()[-1])["outcomes"]["ok"] == 10
