"""What a known answer and a budget are worth with two workers: cases of `limits.py`."""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks import harness, runs
from benchmarks.harness import Stack
from benchmarks.report import Figure
from qaworker.errors import ExitCode
from qaworker.llm.prices import MICROS, cost_micros, require_price
from qaworker.models import Usage
from tests.support.processes import QAWORKER
from tests.support.waiting import wait_until

MODEL = "gpt-5-mini"
LEAST_CHUNKS = 150


def known(scale: float) -> list[Figure]:
    """Run what another run has done already."""
    chunks = int(10_000 * scale)
    with harness.stack() as running:
        first = runs.begin(running, chunks)
        lost = runs.without_answer(running, first, chunks)
        calls = running.simulator.stats()["calls"]
        begun = time.monotonic()
        again = running.generate(running.directory / "passages.jsonl", run="again")
        lost += runs.without_answer(running, again, chunks, run="again")
        took_s = time.monotonic() - begun
        more = running.simulator.stats()["calls"] - calls
    return [
        Figure("seconds of the second command", took_s, most=15, form=".1f", is_of_full_size=True),
        Figure("calls of it", more, most=0),
        Figure("chunks without an answer, of both", lost, most=0),
    ]


def budget(scale: float) -> list[Figure]:
    """Give a run a third of what it takes, let another one flow, and give it enough."""
    chunks, others = max(LEAST_CHUNKS, int(3000 * scale)), max(LEAST_CHUNKS, int(1000 * scale))
    with harness.stack("--latency", "0.5") as running:
        dataset, other = running.directory / "passages.jsonl", running.directory / "other.jsonl"
        harness.write_passages(dataset, chunks, tokens=300)
        harness.write_passages(other, others, tokens=300, first=chunks)
        planned = _plan_dollars(running, dataset)
        running.start_workers(2)
        client = running.generate(dataset, "--budget", f"{planned / 3:.6f}")
        code = client.wait_exit(runs.MOST_S)
        assert code == ExitCode.TRY_AGAIN, client.output
        wait_until(lambda: not running.simulator.stats()["in_flight"], 60, "the last answers")
        spent = _spent_dollars(running)
        held = sum(hold.reason == "budget" for hold in runs.held(running))
        lost = runs.without_answer(running, running.generate(other, run="other"), others, "other")
        still_held = sum(hold.reason == "budget" for hold in runs.held(running))
        again = running.generate(dataset, "--budget", f"{2 * planned:.6f}")
        return [
            Figure("spent, of the budget", spent / (planned / 3), most=1, form=".4f"),
            Figure("runs held", min(held, still_held), least=1, most=1),
            Figure("chunks of another run without an answer", lost, most=0),
            *runs.completion(running, again, chunks),
        ]


def _plan_dollars(running: Stack, dataset: Path) -> float:
    plan = running.start(*QAWORKER, "plan", "--input-file", str(dataset), "--json", log="plan.log")
    assert plan.wait_exit(120) == ExitCode.OK, plan.output
    return float(json.loads(plan.output.splitlines()[-1])["dollars"])


def _spent_dollars(running: Stack) -> float:
    """What the simulator's tokens cost."""
    tokens = running.simulator.stats()["tokens"]
    usage = Usage(input=tokens["prompt"], output=tokens["completion"])
    return cost_micros(usage, require_price(MODEL)) / MICROS
