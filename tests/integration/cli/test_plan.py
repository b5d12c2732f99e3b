"""The plan of the sample corpora, and what a run of them then takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker.cli.main import main
from qaworker.client.intake import Intake, Request
from qaworker.client.planning import Terms, make_plan
from qaworker.corpus.reading import Source
from qaworker.limits.limiter import Limiter
from qaworker.limits.rates import Rates, rate_table
from qaworker.llm.addresses import account
from qaworker.models import GenerationConfig
from qaworker.simulator.replies import count_tokens
from qaworker.store.connections import connect_async
from qaworker.store.heartbeats import Beat, beat
from qaworker.store.ledger import Ledger
from tests.support.commands import Run
from tests.support.processes import ROOT
from tests.support.simulators import SimulatorProcess

SAMPLES = ROOT / "samples"
FORM_TOKENS = 11

Simulators = Callable[..., SimulatorProcess]


def counted_as_the_simulator_does(text: str) -> int:
    """It counts messages by their length, and no schema."""
    return 0 if text.startswith('{"name":"qa_pairs"') else count_tokens(text)


@pytest.mark.slow
@pytest.mark.parametrize("batch_chunks", [1, 3])
def test_a_run_takes_what_was_planned(
    run: Run,
    redis_url: str,
    redis_client: Redis,
    simulator: Simulators,
    batch_chunks: int,
) -> None:
    api = simulator()
    env = {"REDIS_URL": redis_url, "OPENAI_BASE_URL": api.base_url}
    given = ("--input-file", SAMPLES, "--batch-chunks", str(batch_chunks), "--output", "run")

    def plan() -> dict[str, Any]:
        ran = run("plan", *given, "--json", **env)
        assert (ran.code, ran.err) == (0, "")
        shown: dict[str, Any] = json.loads(ran.out)
        return shown

    planned = plan()
    assert api.stats()["requests"] == 0
    assert redis_client.dbsize() == 0
    ran = run("generate", *given, "--json", **env)
    assert ran.code == 0, ran.err
    stats, summary = api.stats(), json.loads(ran.out)
    assert planned["calls"] == stats["requests"]
    assert planned["chunks"] - planned["known"] == stats["distinct_chunks"]
    assert (planned["documents"], planned["chunks"]) == (summary["documents"], summary["chunks"])

    request = Request(
        source=Source(path=SAMPLES),
        chunk_size=300,
        min_tokens=150,
        max_tokens=400,
        merge_chunks=True,
        config=GenerationConfig(batch_chunks=batch_chunks),
        model="gpt-5-mini",
        priority=None,
    )
    terms = Terms(
        model=request.model, config=request.config, price=None, rates=Rates(), calls_in_flight=1
    )
    # Counted anew, as it counts them.
    chunks = [(c.model_copy(update={"tokens": 0}), digest) for c, digest in Intake(request, print)]
    as_there = make_plan(chunks, terms, count=counted_as_the_simulator_does)
    counted = as_there.input_tokens - FORM_TOKENS * as_there.calls
    # It rounds a message up, and the plan the text and what stands around it.
    assert 0 <= counted - stats["tokens"]["prompt"] <= as_there.chunks
    assert stats["tokens"]["completion"] < planned["most_output_tokens"]

    for _ in range(2):  # from Redis, then from the run's ledger
        again = plan()
        assert (again["known"], again["calls"], again["dollars"]) == (planned["chunks"], 0, 0)
        redis_client.flushall()


@pytest.mark.parametrize("has_key", [True, False])
def test_the_limits_are_those_that_the_provider_said(
    redis_url: str,
    redis_client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    has_key: bool,
) -> None:
    base_url, key = "https://api.openai.com/v1", "sk-of-the-test-0123456789"
    own = account(base_url, key)
    beat(redis_client, Beat(name="qa_worker-1@host", pid=1, account=own))

    async def learn() -> None:
        async with connect_async(redis_url) as redis:
            limiter = Limiter(redis, own, rate_table(base_url))
            await limiter.learn("gpt-5-mini", 30_000, None)
            await limiter.learn("gpt-5", 1, 1)

    asyncio.run(learn())
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("OPENAI_API_KEY", key if has_key else "")
    given = ["--input-file", str(SAMPLES / "composter_manual.md"), "--model", "gpt-5-mini"]
    assert main(["plan", *given, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["rpm"], planned["rpm_from"]) == (30_000, "provider")
    assert (planned["tpm"], planned["tpm_from"]) == (200_000, "table")


def test_a_run_at_work_is_looked_into_and_not_disturbed(
    run: Run, redis_url: str, redis_client: Redis, tmp_path: Path, simulator: Simulators
) -> None:
    env = {"REDIS_URL": redis_url, "OPENAI_BASE_URL": simulator().base_url}
    given = ("--input-file", SAMPLES / "composter_manual.md", "--output", "run")
    assert run("generate", *given, **env).code == 0
    redis_client.flushall()
    with Ledger.open(tmp_path / "run"):
        ran = run("plan", *given, "--json", **env)
    assert (ran.code, ran.err) == (0, "")
    planned = json.loads(ran.out)
    assert planned["known"] == planned["chunks"] > 0
