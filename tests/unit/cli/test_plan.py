from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qaworker.cli.plan import page, plan_line
from qaworker.client.planning import Plan, Terms
from qaworker.limits.rates import Rates, rate_table
from qaworker.llm.prices import dollars, price_of
from qaworker.models import GenerationConfig
from tests.support.commands import Run

TEXT = "The kiln at Orrin burnt lime until 1924. Its chimney still stands beside the quarry.\n"


def plan(*, known: int = 0, calls: int = 1_234, cost: int | None = 2_345_600) -> Plan:
    return Plan(
        chunks=1_300,
        known=known,
        calls=calls,
        input_tokens=600_000,
        output_tokens=400_000,
        most_output_tokens=900_000,
        cost_micros=cost,
        most_micros=None if cost is None else 2 * cost,
        most_call_micros=None if cost is None else 4_000,
        seconds=300.0 if calls else 0.0,
        bound_by="tokens" if calls else "nothing",
        terms=Terms(
            model="gpt-5-mini",
            config=GenerationConfig(),
            price=price_of("gpt-5-mini"),
            rates=Rates(rpm=3500, tpm=200_000),
            calls_in_flight=1024,
        ),
    )


@pytest.mark.parametrize(
    ("micros", "shown"),
    [
        (0, "$0.0000"),
        (1, "$0.0001"),
        (100, "$0.0001"),
        (101, "$0.0002"),
        (23_400, "$0.0234"),
        (999_999, "$1.0000"),
        (1_000_000, "$1.00"),
        (1_000_001, "$1.01"),
        (1_234_567_890_000, "$1,234,567.89"),
    ],
)
def test_dollars_are_rounded_up(micros: int, shown: str) -> None:
    assert dollars(micros) == shown


def test_the_line_says_all_that_matters() -> None:
    assert plan_line(plan(known=66)) == (
        "plan: 1,300 chunks (66 known already), 1,234 calls; 600,000 tokens in, about 400,000 out;"
        " about $2.35, at most $4.70; about 5 min"
    )
    assert "known" not in plan_line(plan())
    assert "price unknown" in plan_line(plan(cost=None))
    assert "nobody knows" not in plan_line(plan())


def test_limits_that_are_a_guess_are_said_to_be() -> None:
    one = plan()
    rates = rate_table("https://api.openai.com/v1").of("gpt-99")
    guessed = replace(one, terms=replace(one.terms, rates=rates))
    for text in (plan_line(guessed), page(guessed, documents=7, skipped_rows=0)):
        assert text.endswith(", if its limits are the least there are: nobody knows them yet")


def test_the_page_says_by_what_it_is_bound() -> None:
    shown = page(plan(), documents=7, skipped_rows=2)
    assert "documents      7, 2 bad rows left out\n" in shown
    assert shown.endswith(
        "about 5 min, bound by tokens (3,500 requests a minute, 200,000 tokens a minute,"
        " 1,024 calls in flight of 6 s)"
    )
    assert "none: nothing is to be asked" in page(plan(calls=0), documents=7, skipped_rows=0)


def test_the_page_says_whether_the_budget_suffices() -> None:
    shown = page(plan(), documents=7, skipped_rows=0, budget=4_700_000)
    assert shown.endswith("\nbudget         $4.70: all of it fits")
    assert "budget" not in page(plan(), documents=7, skipped_rows=0)


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """The address of a Redis that is not there."""
    return f"unix://{tmp_path}/no.sock"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps({"text": TEXT * n}) + "\n" for n in (1, 20, 40)))
    return path


def test_it_needs_no_redis_and_no_key_and_writes_nothing(
    run: Run, dataset: Path, nowhere: str, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    ran = run("plan", "--input-file", dataset, REDIS_URL=nowhere)
    assert ran.code == 0
    assert ran.complaint.startswith("taking all for new: Redis does not answer")
    assert ran.out.startswith("model          gpt-5-mini\ndocuments      3\n")
    assert "at most $" in ran.out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_it_takes_the_options_of_generate(run: Run, dataset: Path, nowhere: str) -> None:
    def figures(*options: str, **env: str) -> dict[str, Any]:
        ran = run("plan", "--input-file", dataset, "--json", *options, REDIS_URL=nowhere, **env)
        assert ran.code == 0, ran.err
        shown: dict[str, Any] = json.loads(ran.out)
        return shown

    plain = figures()
    assert plain["documents"] == 3
    assert plain["calls"] == plain["chunks"] - plain["known"]
    assert figures("--batch-chunks", "5")["calls"] == 1
    assert figures("--max-docs", "1")["chunks"] == 1
    assert figures("--use-celery", "--celery-workers", "4")["calls_in_flight"] == 2048
    assert figures("--use-celery", "--yes")["calls_in_flight"] == 512
    assert figures("--budget", "1.5")["budget_dollars"] == 1.5
    assert (figures(QAWORKER_RPM="7")["rpm"], figures(QAWORKER_TPM="0")["tpm"]) == (7, 0)


@pytest.mark.slow
def test_an_unknown_price_is_a_hint_not_an_error(
    run: Run, dataset: Path, nowhere: str, tmp_path: Path
) -> None:
    model = ("--model", "local-7b")
    ran = run("plan", "--input-file", dataset, "--json", *model, REDIS_URL=nowhere)
    assert ran.code == 0
    assert json.loads(ran.out)["dollars"] is None
    hint = ran.err.splitlines()[-1]
    assert hint.startswith(
        "the price of local-7b is not known: name a file in QAWORKER_PRICES_FILE"
    )
    own = tmp_path / "prices.json"
    own.write_text(hint.partition("million tokens: ")[2])
    env = {"REDIS_URL": nowhere, "QAWORKER_PRICES_FILE": str(own)}
    priced = run("plan", "--input-file", dataset, "--json", *model, **env)
    assert json.loads(priced.out)["dollars"] > 0
    own.write_text("[]")
    wrong = run("plan", "--input-file", dataset, "--json", *model, **env)
    assert (wrong.code, wrong.out) == (78, "")
    assert "QAWORKER_PRICES_FILE" in wrong.err


def test_a_dataset_that_cannot_be_read_is_an_input_error(run: Run, nowhere: str) -> None:
    ran = run("plan", "--input-file", "missing.csv", REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (65, "")
