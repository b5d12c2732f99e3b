"""Chance is decided by seed, prompt and attempt."""

from __future__ import annotations

import statistics

import pytest

from qaworker.simulator.draws import Draws, Latency
from qaworker.simulator.faults import FaultRates

PROMPTS = [f"prompt {number} 質問" for number in range(2000)]


def test_the_lots_of_a_prompt_do_not_depend_on_the_order_of_arrival() -> None:
    forward, backward = Draws(7), Draws(7)
    first = {prompt: forward.next(prompt) for prompt in PROMPTS}
    second = {prompt: backward.next(prompt) for prompt in reversed(PROMPTS)}
    assert first == second


def test_each_attempt_and_each_seed_has_lots_of_its_own() -> None:
    draws = Draws(7)
    lots = [draws.next("p"), draws.next("p"), Draws(8).next("p")]
    assert len({lot.fault for lot in lots}) == 3
    draws.forget()
    assert draws.next("p") == lots[0]


def test_faults_come_as_often_as_asked() -> None:
    rates = FaultRates.of({"500": 0.25, "429": 0.5})
    draws = Draws(1)
    kinds = [rates.pick(draws.next(prompt).fault) for prompt in PROMPTS]
    assert kinds.count("429") == pytest.approx(1000, rel=0.1)
    assert kinds.count("500") == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize(
    ("rates", "message"),
    [({"501": 0.1}, "unknown fault '501'"), ({"500": 2}, "from 0 to 1"), ({"500": "x"}, "number"),
     ({"500": True}, "number"), ({"500": 0.6, "503": 0.6}, "must not exceed 1")],
)  # fmt: skip
def test_rates_are_checked(rates: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaultRates.of(rates)


def test_ten_tenths_are_not_more_than_one() -> None:
    kinds = (
        "429",
        "500",
        "503",
        "quota",
        "auth",
        "timeout",
        "reset",
        "truncated",
        "slow",
        "refusal",
    )
    rates = FaultRates.of(dict.fromkeys(kinds, 0.1))
    assert rates.pick(0.9999)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_latencies_have_the_mean_and_the_spread_asked_for(sigma: float) -> None:
    draws = Draws(3)
    latencies = [Latency(2.0, sigma).at(draws.next(prompt).latency) for prompt in PROMPTS]
    assert statistics.mean(latencies) == pytest.approx(2.0, rel=0.1)
    assert statistics.median(latencies) == pytest.approx(
        2.0 * 2.718281828 ** (-(sigma**2) / 2), rel=0.1
    )


def test_no_latency_has_no_spread() -> None:
    assert Latency(0.0, 1.0).at(0.9) == 0
