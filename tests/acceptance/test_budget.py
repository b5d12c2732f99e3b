"""No more is spent than the budget, by any number of workers, whatever becomes of them."""

from __future__ import annotations

import json
import os
import re
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from qaworker import keys
from qaworker.limits import budget as budgets
from qaworker.llm.prices import MICROS, cost_micros, price_of
from qaworker.models import Usage
from qaworker.store import holds
from qaworker.store.ledger import Ledger
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

CHUNKS = 300
MODEL = "gpt-5-mini"
NO_LIMIT = {"QAWORKER_TPM": "0", "QAWORKER_RPM": "0"}
# Then a dead worker's reservations are charged soon.
SHORT_CALLS = {"QAWORKER_CALL_TIMEOUT_S": "5"}
AT_ONCE_S = 40
SPENT = (
    r"qaworker: the budget does not cover another call \(\$[0-9.]+ of \$[0-9.]+ spent, and the next"
    r" call may cost \$[0-9.]+\):"
    r" the same command with a larger --budget goes on"
)


def plan(site: Site, dataset: Path) -> dict[str, Any]:
    ran = site.command("plan", "--input-file", dataset, "--json")
    assert ran.wait_exit(30) == 0, ran.output
    shown: dict[str, Any] = json.loads(ran.output.splitlines()[-1])
    return shown


def spent_micros(site: Site) -> int:
    """What the provider charges for all it answered."""
    tokens = site.api.stats()["tokens"]
    price = price_of(MODEL)
    assert price is not None
    return cost_micros(Usage(input=tokens["prompt"], output=tokens["completion"]), price)


def held(site: Site) -> list[str]:
    return [hold.scope.partition(":")[0] for hold in holds.holds(site.redis)]


def check_exported_so_far(site: Site, run: str) -> None:
    """The files hold what was paid for."""
    summary = site.summary(run)
    assert 0 < summary["outcomes"]["ok"] < CHUNKS
    assert (summary["chunks"], summary["reconciles"]) == (CHUNKS, False)
    lines = (site.directory / run / "qa_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    answered = {json.loads(line)["source_chunk_id"] for line in lines}
    assert (len(answered), len(lines)) == (summary["outcomes"]["ok"], summary["pairs"])


def test_a_run_is_held_when_its_budget_is_spent_and_goes_on_with_a_larger_one(site: Site) -> None:
    site.simulate("--latency", "0.5")
    workers = [site.worker(number, **NO_LIMIT) for number in (1, 2)]
    dataset = site.dataset(CHUNKS)
    planned = plan(site, dataset)["dollars"]
    budget = planned / 3
    run = site.generate(dataset, "run", "--use-celery", "--budget", f"{budget:.6f}")
    assert run.wait_exit(AT_ONCE_S) == 75, run.output
    shown, told = run.output.splitlines()[0], run.output.splitlines()[-1]
    assert shown.startswith(f"plan: {CHUNKS} chunks, {CHUNKS} calls")
    assert re.fullmatch(SPENT, told)
    wait_until(lambda: site.api.stats()["in_flight"] == 0, 10, "the calls on the wire to end")
    spent = spent_micros(site)
    # Used up, but for less than one call can cost.
    assert 0.9 * budget * MICROS < spent <= budget * MICROS
    assert held(site) == ["run"]
    check_exported_so_far(site, "run")

    other = site.generate(site.dataset(40, first=CHUNKS), "other", "--use-celery")
    assert other.wait_exit(AT_ONCE_S) == 0, other.output
    check_complete(site, "other", 40)

    others_calls = site.api.stats()["calls"]
    again = site.generate(dataset, "run", "--use-celery")
    assert again.wait_exit(AT_ONCE_S) == 75, again.output
    assert re.fullmatch(SPENT, again.output.splitlines()[-1])
    assert site.api.stats()["calls"] == others_calls

    more = site.generate(dataset, "run", "--use-celery", "--budget", f"{2 * planned:.6f}")
    assert more.wait_exit(AT_ONCE_S) == 0, more.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1
    assert held(site) == []
    for worker in workers:
        check_log(worker)


def test_what_a_killed_worker_may_have_spent_counts(site: Site) -> None:
    site.simulate("--latency", "0.5")
    settings = NO_LIMIT | SHORT_CALLS
    few = {"QAWORKER_CALLS_IN_FLIGHT": "10", "QAWORKER_THREADS": "2"}
    lost, kept = (site.worker(number, **settings, **few) for number in (1, 2))
    dataset = site.dataset(CHUNKS)
    budget = plan(site, dataset)["dollars"] / 3
    run = site.generate(dataset, "run", "--use-celery", "--budget", f"{budget:.6f}")
    site.wait_calls(40)
    site.wait_in_flight(12)  # of both
    os.kill(lost.pid, signal.SIGKILL)
    assert run.wait_exit(90) == 75, run.output
    wait_until(lambda: site.api.stats()["in_flight"] == 0, 10, "the calls on the wire to end")
    assert spent_micros(site) <= budget * MICROS
    (directory,) = site.directory.glob("run")
    with Ledger.open(directory) as ledger:
        state = budgets.state(site.redis, ledger.run_id)
        assert state.reserved_micros == 0
        # What nobody settled is charged in full.
        assert spent_micros(site) < state.spent_micros <= budget * MICROS
    check_log(kept)


def test_a_run_in_its_own_process_and_one_that_was_submitted_keep_their_budgets(site: Site) -> None:
    site.simulate()
    dataset = site.dataset(CHUNKS)
    budget = plan(site, dataset)["dollars"] / 3
    run = site.generate(dataset, "run", "--budget", f"{budget:.6f}", **NO_LIMIT)
    assert run.wait_exit(AT_ONCE_S) == 75, run.output
    assert "does not cover" in run.output.splitlines()[-1]
    check_exported_so_far(site, "run")
    spent = spent_micros(site)
    assert 0.9 * budget * MICROS < spent <= budget * MICROS
    more = site.generate(dataset, "run", "--budget", f"{10 * budget:.6f}", **NO_LIMIT)
    assert more.wait_exit(AT_ONCE_S) == 0, more.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1

    site.api.reset_stats()
    place = site.directory / "submitted"
    dataset = site.dataset(CHUNKS, first=CHUNKS)
    amount = f"{budget:.6f}"
    submitted = site.command(
        "submit", "--input-file", dataset, "--output", place, "--budget", amount
    )
    assert submitted.wait_exit(AT_ONCE_S) == 0, submitted.output
    worker = site.worker(**NO_LIMIT)
    wait_until(lambda: held(site) == ["run"], AT_ONCE_S, "the hold")
    wait_until(lambda: not site.redis.llen(keys.queue(keys.DEFAULT_QUEUE)), 20, "an empty queue")
    early = site.command("collect", place)
    assert early.wait_exit(AT_ONCE_S) == 75, early.output
    assert "does not cover" in early.output.splitlines()[-1]
    check_exported_so_far(site, "submitted")
    assert spent_micros(site) <= budget * MICROS
    collect = site.command("collect", place, "--budget", f"{10 * budget:.6f}")
    assert collect.wait_exit(AT_ONCE_S) == 0, collect.output
    check_complete(site, "submitted", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_log(worker)


def test_a_budget_bounds_what_was_sent_before_it_was_given(site: Site) -> None:
    site.simulate()
    dataset = site.dataset(CHUNKS)
    budget = plan(site, dataset)["dollars"] / 3
    run = site.generate(dataset, "run", "--use-celery")
    queue = keys.queue(keys.DEFAULT_QUEUE)
    wait_until(lambda: site.redis.llen(queue) == -(-CHUNKS // 16), 20, "the messages")
    scope = f"run:{site.directory / 'run'}"
    hold = site.command("hold", "set", scope, "what may it cost?")
    assert hold.wait_exit(20) == 0, hold.output
    assert run.wait_exit(10) == 75, run.output
    release = site.command("hold", "release", scope)
    assert release.wait_exit(20) == 0, release.output
    amount = f"{budget:.6f}"
    bound = site.generate(dataset, "run", "--use-celery", "--budget", amount)
    assert bound.wait_exit(AT_ONCE_S) == 78, bound.output
    assert "under way without a budget" in bound.output.splitlines()[-1]

    # As if a worker had held them between two looks of the command.
    with Ledger.open(site.directory / "run") as ledger:
        micros = int(budget * MICROS)
        run_id, keep = ledger.run_id, timedelta(days=1)
        budgets.open_budget(site.redis, run_id, micros, spent_micros=0, keep=keep)
    worker = site.worker(**NO_LIMIT)
    wait_until(lambda: held(site) == ["run"], AT_ONCE_S, "the hold")
    wait_until(lambda: not site.redis.llen(queue), 20, "an empty queue")
    wait_until(lambda: site.api.stats()["in_flight"] == 0, 10, "the calls on the wire to end")
    assert 0.9 * budget * MICROS < spent_micros(site) <= budget * MICROS
    check_log(worker)


def test_what_was_on_the_wire_of_a_held_process_is_exported(site: Site) -> None:
    site.simulate("--latency", "2")
    run = site.generate(site.dataset(CHUNKS), "run", QAWORKER_CALLS_IN_FLIGHT="16", **NO_LIMIT)
    site.wait_calls(16)
    hold = site.command("hold", "set", f"run:{site.directory / 'run'}", "wrong prompt")
    assert hold.wait_exit(20) == 0, hold.output
    assert run.wait_exit(20) == 75, run.output
    check_exported_so_far(site, "run")
    assert site.summary("run")["outcomes"]["ok"] == site.api.stats()["calls"]


def test_an_operator_holds_one_run_and_others_flow(site: Site) -> None:
    site.simulate("--latency", "0.5")
    worker = site.worker(QAWORKER_CALLS_IN_FLIGHT="16", **NO_LIMIT)
    dataset = site.dataset(CHUNKS)
    run = site.generate(dataset, "run", "--use-celery")
    site.wait_calls(30)
    scope = f"run:{site.directory / 'run'}"
    hold = site.command("hold", "set", scope, "wrong prompt")
    assert hold.wait_exit(20) == 0, hold.output
    assert run.wait_exit(10) == 75, run.output
    told = run.output.splitlines()[-1]
    assert told.startswith("qaworker: the run is held (wrong prompt): after `qaworker hold release")
    other = site.generate(site.dataset(20, first=CHUNKS), "other", "--use-celery")
    assert other.wait_exit(AT_ONCE_S) == 0, other.output
    check_complete(site, "other", 20)
    assert site.api.stats()["calls"] < CHUNKS

    release = site.command("hold", "release", scope)
    assert release.wait_exit(20) == 0, release.output
    again = site.generate(dataset, "run", "--use-celery")
    assert again.wait_exit(AT_ONCE_S) == 0, again.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_log(worker)
