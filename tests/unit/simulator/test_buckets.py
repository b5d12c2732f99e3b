"""The strict limits, on an injected clock."""

from __future__ import annotations

import pytest

from qaworker.simulator.buckets import Gate, Limits
from qaworker.simulator.replies import Refused


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted(gate: Gate, tokens: int = 0) -> bool:
    try:
        gate.admit(tokens)
    except Refused:
        return False
    return True


def test_holds_one_second_of_requests_and_no_more(clock: Clock) -> None:
    gate = Gate(Limits(rpm=600), clock)
    clock.now += 3600
    assert sum(admitted(gate) for _ in range(50)) == 10


@pytest.mark.parametrize("rpm", [30, 600, 3500])
def test_lets_through_the_rate_over_a_minute(clock: Clock, rpm: int) -> None:
    gate = Gate(Limits(rpm=rpm), clock)
    count = 0
    for _ in range(60_000):
        clock.now += 0.001
        count += admitted(gate)
    assert rpm - 1 <= count <= rpm + rpm / 60 + 1


def test_a_request_is_let_through_after_the_wait_it_was_told(clock: Clock) -> None:
    gate = Gate(Limits(rpm=600), clock)
    while admitted(gate):
        pass
    with pytest.raises(Refused) as refused:
        gate.admit(0)
    wait_ms = int(refused.value.reply.headers["retry-after-ms"])
    assert wait_ms == 100
    assert refused.value.reply.headers["Retry-After"] == "1"
    clock.now += wait_ms / 1000 - 0.002
    assert not admitted(gate)
    clock.now += 0.002
    assert admitted(gate)


def test_tokens_are_taken_at_admission_and_corrected_to_those_used(clock: Clock) -> None:
    gate = Gate(Limits(tpm=60_000), clock)
    assert admitted(gate, 900)
    assert not admitted(gate, 900)
    gate.settle(900, 100)
    assert admitted(gate, 900)
    gate.settle(900, 1900)
    clock.now += 0.999
    assert not admitted(gate, 900)
    clock.now += 0.902
    assert admitted(gate, 900)


def test_what_is_given_back_does_not_exceed_one_second(clock: Clock) -> None:
    gate = Gate(Limits(tpm=60_000), clock)
    assert admitted(gate, 1000)
    clock.now += 1
    gate.settle(1000, 0)
    assert admitted(gate, 1000)
    assert not admitted(gate, 1)


def test_a_refused_request_takes_nothing(clock: Clock) -> None:
    gate = Gate(Limits(rpm=60, tpm=60_000), clock)
    assert admitted(gate, 500)
    assert not admitted(gate, 500)
    assert gate.headers()["x-ratelimit-remaining-tokens"] == "500"


def test_a_request_beyond_one_second_of_tokens_waits_for_a_full_bucket_and_leaves_a_debt(
    clock: Clock,
) -> None:
    gate = Gate(Limits(tpm=60_000), clock)
    assert admitted(gate, 3000)
    clock.now += 2.9
    assert not admitted(gate, 3000)
    clock.now += 0.1
    assert admitted(gate, 3000)


def test_a_request_beyond_a_minute_of_tokens_is_refused_without_a_time_to_wait(
    clock: Clock,
) -> None:
    gate = Gate(Limits(tpm=6000), clock)
    with pytest.raises(Refused, match="Request too large") as refused:
        gate.admit(6001)
    assert refused.value.reply.status == 429
    assert "Retry-After" not in refused.value.reply.headers


def test_says_what_is_left(clock: Clock) -> None:
    gate = Gate(Limits(rpm=600, tpm=600_000), clock)
    gate.admit(2500)
    assert gate.headers() == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "9",
        "x-ratelimit-reset-requests": "100ms",
        "x-ratelimit-limit-tokens": "600000",
        "x-ratelimit-remaining-tokens": "7500",
        "x-ratelimit-reset-tokens": "250ms",
    }


def test_no_limit_admits_everything_and_says_nothing(clock: Clock) -> None:
    gate = Gate(Limits(), clock)
    assert all(admitted(gate, 10**9) for _ in range(100))
    assert gate.headers() == {}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_limit_is_a_number_that_is_not_negative(value: float) -> None:
    with pytest.raises(ValueError, match="not negative"):
        Limits(rpm=value)
