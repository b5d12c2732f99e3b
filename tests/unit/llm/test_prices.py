from __future__ import annotations

import json
import os
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path

import pytest

from qaworker.errors import ConfigError
from qaworker.llm.prices import Price, cost_micros, most_micros, price_of, require_price
from qaworker.models import Usage

SHIPPED = json.loads(
    resources.files("qaworker.llm").joinpath("prices.json").read_text(encoding="utf-8"),
    parse_float=Decimal,
)
CENTS = Price(input=Decimal("0.25"), cached_input=Decimal("0.025"), output=Decimal(2))
TENTHS = Price(input=Decimal("0.1"), output=Decimal("0.3"))


def test_the_table_says_when_and_where_it_was_read() -> None:
    assert date.fromisoformat(SHIPPED["read_on"])
    assert {row["source"] for row in SHIPPED["models"].values()} == SHIPPED["sources"].keys()


@pytest.mark.parametrize("model", SHIPPED["models"])
def test_every_model_of_the_table_has_its_price(model: str) -> None:
    price = price_of(model)
    assert price is not None
    given = SHIPPED["models"][model]
    assert (price.input, price.output) == (given["input"], given["output"])
    assert 0 < price.cached_input <= price.input <= price.fresh_input < price.output


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("openai/gpt-5-mini", "gpt-5-mini"),
        ("openai/gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("ft:gpt-4o-mini-2024-07-18:acme::B7R9VjQX", "ft:gpt-4o-mini"),
        ("openai/ft:gpt-4.1:acme:qa:B7R9VjQX", "ft:gpt-4.1"),
    ],
)
def test_a_longer_name_leads_to_its_price(name: str, base: str) -> None:
    assert price_of(name) == price_of(base) != None  # noqa: E711, both sides at once


def test_a_snapshot_may_have_a_price_of_its_own() -> None:
    assert price_of("gpt-4o-2024-05-13") != price_of("gpt-4o") == price_of("gpt-4o-2024-11-20")


def test_a_fine_tuned_model_is_dearer_than_its_base() -> None:
    tuned, base = price_of("ft:gpt-4o-mini-2024-07-18:acme::1"), price_of("gpt-4o-mini")
    assert tuned
    assert base
    assert tuned.output > base.output


@pytest.mark.parametrize(
    "name",
    [
        "gpt-5-mini-fast",
        "openai/gpt-5-mini:batch",
        "reseller/gpt-5-mini",
        "my-gpt-5-mini",
        "ft:gpt-5-mini:acme::1",
        "Qwen/Qwen3-8B",
        "",
    ],
)
def test_what_only_looks_alike_has_no_price(name: str) -> None:
    assert price_of(name) is None


def test_a_file_of_ones_own_adds_and_corrects(tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    own.write_text(
        '{"models": {"重み": {"input": 0.1, "output": 0.3}, "o3": {"input": 9, "output": 9}}}'
    )
    added = price_of("重み", own)
    assert added == TENTHS
    assert price_of("o3-2025-04-16", own) == Price(input=Decimal(9), output=Decimal(9))
    assert price_of("gpt-4o", own) == price_of("gpt-4o")
    assert price_of("重み") is None


def test_who_runs_on_takes_a_price_that_is_added(tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    own.write_text('{"models": {}}')
    assert price_of("重み", own) is None
    # Before the change, a day ago: files are often replaced by older ones.
    own.write_text('{"models": {"重み": {"input": 0.1, "output": 0.3}}}')
    os.utime(own, ns=(0, own.stat().st_mtime_ns - 86_400 * 10**9))
    assert price_of("重み", own) == TENTHS


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "Invalid JSON"),
        ('{"models": {"m": {"input": -1, "output": 1}}}', r"models\.m\.input"),
        ('{"models": {"m": {"input": 1, "output": 1, "per": "thousand"}}}', r"models\.m\.per"),
        ('{"models": {"m": {"input": 1}}}', r"models\.m\.output"),
        ('{"models": {"m": {"input": "NaN", "output": 1}}}', r"models\.m\.input"),
        ('{"m": {"input": 1, "output": 1}}', "models"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, text: str | None, problem: str) -> None:
    own = tmp_path / "prices.json"
    if text is not None:
        own.write_text(text)
    with pytest.raises(ConfigError, match=f"QAWORKER_PRICES_FILE: {own}: .*{problem}") as caught:
        price_of("m", own)
    assert "\n" not in str(caught.value)


def test_a_missing_price_says_where_to_put_it(tmp_path: Path) -> None:
    own = tmp_path / "prices.json"
    with pytest.raises(ConfigError, match="name a file in QAWORKER_PRICES_FILE") as caught:
        require_price("重み")
    own.write_text(str(caught.value).partition("million tokens: ")[2], encoding="utf-8")
    assert require_price("重み", own) == price_of("重み", own) is not None
    with pytest.raises(ConfigError, match=f"add it to {own}"):
        require_price("other", own)
    assert require_price("gpt-5-mini") == price_of("gpt-5-mini")


@pytest.mark.parametrize(
    ("usage", "micros"),
    [
        (Usage(), 0),
        (Usage(input=1), 1),
        (Usage(input=4), 1),
        (Usage(input=5), 2),
        (Usage(input=1000, output=300), 850),
        (Usage(input=1000, cached=800, output=300), 670),
        (Usage(input=1000, output=300, reasoning=200), 850),
        (Usage(input=10, cached=4000), 1),
        (Usage(input=40_000_000_000, output=4_000_000_001), 18_000_000_002),
    ],
)
def test_the_cost_is_exact_and_rounded_up(usage: Usage, micros: int) -> None:
    assert cost_micros(usage, CENTS) == micros


def test_binary_fractions_round_nothing_up() -> None:
    assert cost_micros(Usage(input=10), TENTHS) == 1
    assert cost_micros(Usage(output=10), TENTHS) == 3


def test_filling_the_cache_is_paid_for() -> None:
    luna = require_price("gpt-5.6-luna")
    assert cost_micros(Usage(input=1_000_000), luna) == 250_000
    assert cost_micros(Usage(input=1_000_000, cached=1_000_000), luna) == 20_000


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5.6-luna", "gpt-4o-2024-05-13"])
@pytest.mark.parametrize("cached", [0, 500, 1000])
def test_no_call_costs_more_than_its_most(model: str, cached: int) -> None:
    price = require_price(model)
    most = most_micros(1000, 512, price)
    for output in (0, 100, 512):
        assert cost_micros(Usage(input=1000, cached=cached, output=output), price) <= most
    assert cost_micros(Usage(input=1000, output=512), price) == most
