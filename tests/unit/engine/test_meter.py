from __future__ import annotations

import pytest

from qaworker.engine.meter import Meter
from qaworker.errors import AnswerTruncated, ConfigError, ProviderUnavailable
from qaworker.llm.prices import Price
from qaworker.models import Usage
from qaworker.store.counters import Counts

DOLLARS = Price.model_validate({"input": 2, "cached_input": 1, "output": 10})


def price(model: str) -> Price:
    if model == "unknown":
        raise ConfigError
    return DOLLARS


class Measured:
    """A meter, and what it counted."""

    def __init__(self) -> None:
        self._counts = Counts()
        self.meter = Meter(self._counts, price)

    @property
    def counted(self) -> dict[str, int]:
        return {
            f"{name}|{model}" if model else name: count
            for (name, model), count in self._counts.take().counts.items()
        }


def test_an_answer_counts_with_its_duration_its_tokens_and_its_cost() -> None:
    measured = Measured()
    usage = Usage(input=100, cached=40, output=10, reasoning=4)
    measured.meter.answered("m", 1.5, usage)
    assert measured.counted == {
        "requests|ok|m": 1,
        "call|2|m": 1,
        "call|sum|m": 1_500_000,
        "tokens|input|m": 100,
        "tokens|cached_input|m": 40,
        "tokens|output|m": 10,
        "tokens|reasoning|m": 4,
        # 60 fresh ones at 2, 40 cached ones at 1, 10 at 10.
        "micro_dollars|m": 260,
    }


def test_a_failure_counts_with_what_it_cost() -> None:
    measured = Measured()
    measured.meter.failed("m", 0.1, AnswerTruncated(usage=Usage(input=5, output=1)))
    measured.meter.failed("m", 100.0, ProviderUnavailable())
    counted = measured.counted
    assert counted["failures|truncated"] == counted["failures|unavailable"] == 1
    assert counted["requests|truncated|m"] == counted["requests|unavailable|m"] == 1
    assert counted["tokens|input|m"] == 5
    assert counted["micro_dollars|m"] == 20
    assert counted["call|100|m"] == 1


def test_a_model_without_a_price_costs_nothing_known() -> None:
    measured = Measured()
    measured.meter.answered("unknown", 1, Usage(input=5, output=1))
    assert not [name for name in measured.counted if name.startswith("micro_dollars")]


def test_a_price_that_is_added_counts_from_then_on() -> None:
    prices: dict[str, Price] = {}

    def added(model: str) -> Price:
        if model not in prices:
            raise ConfigError
        return prices[model]

    counts = Counts()
    meter = Meter(counts, added)
    meter.answered("m", 1, Usage(input=5))
    prices["m"] = DOLLARS
    meter.answered("m", 1, Usage(input=5))
    assert counts.take().counts["micro_dollars", "m"] == 10


def test_a_call_is_a_retry_when_one_failed_before() -> None:
    measured = Measured()
    measured.meter.call_began("m", 0.0, "")
    measured.meter.call_began("m", 3.0, "throttled")
    assert measured.counted == {
        "limiter_wait|0.05|m": 1,
        "limiter_wait|5|m": 1,
        "limiter_wait|sum|m": 3_000_000,
        "retries|throttled": 1,
    }


@pytest.mark.parametrize(
    ("waited_s", "bound", "micros"),
    # At last the sender's clock is ahead.
    [(2.0, "5", 2_000_000), (-9.0, "0.1", 0)],
)
def test_a_message_waits_until_it_first_comes(waited_s: float, bound: str, micros: int) -> None:
    measured = Measured()
    measured.meter.message_began("low_priority", waited_s, is_redelivered=False)
    assert measured.counted == {
        f"task_wait|{bound}|low_priority": 1,
        "task_wait|sum|low_priority": micros,
    }


def test_a_message_that_comes_again_is_redelivered() -> None:
    measured = Measured()
    measured.meter.message_began("low_priority", 99.0, is_redelivered=True)
    assert measured.counted == {"redeliveries": 1}


def test_a_message_that_does_not_say_when_it_was_sent_waited_nobody_knows_how_long() -> None:
    measured = Measured()
    measured.meter.message_began("low_priority", None, is_redelivered=False)
    assert not measured.counted
