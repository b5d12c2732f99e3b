from __future__ import annotations

import random

import pytest

from qaworker.engine.health import LARGEST_WINDOW, LEAST_FAILURES, WINDOW_S, Health


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


def note(health: Health, calls: str) -> None:
    """``+`` is a call the provider was available for."""
    for call in calls:
        health.note(is_available=call == "+")


@pytest.mark.parametrize(
    ("calls", "is_down"),
    [
        ("", False),
        ("-" * (LEAST_FAILURES - 1), False),
        ("-" * LEAST_FAILURES, True),
        ("+" * 6 + "-" * 5, False),
        ("+" * 5 + "-" * 5, True),
        ("+" * 1000 + "-" * (LARGEST_WINDOW // 2 - 1), False),
        ("+" * 1000 + "-" * (LARGEST_WINDOW // 2), True),
    ],
)
def test_the_provider_is_down_when_half_of_the_last_calls_failed(
    health: Health, calls: str, *, is_down: bool
) -> None:
    note(health, calls)
    assert health.is_down() == is_down


def test_failures_are_forgotten_after_the_window(health: Health, clock: Clock) -> None:
    note(health, "-" * LEAST_FAILURES)
    clock.now_s = WINDOW_S
    assert health.is_down()
    clock.now_s = WINDOW_S + 0.1
    assert not health.is_down()


def test_after_a_hold_it_begins_anew(health: Health) -> None:
    note(health, "-" * 50)
    health.forget()
    note(health, "-" * (LEAST_FAILURES - 1))
    assert not health.is_down()


def test_an_answer_is_remembered_however_many_failures_follow(health: Health, clock: Clock) -> None:
    assert not health.has_answered_since(-1)
    clock.now_s = 10
    note(health, "+")
    clock.now_s = 1000
    note(health, "-" * 1000)
    health.forget()
    assert health.has_answered_since(9)
    assert not health.has_answered_since(10)


@pytest.mark.parametrize("seed", range(5))
def test_a_provider_that_fails_now_and_then_is_not_down(
    health: Health, clock: Clock, seed: int
) -> None:
    draws = random.Random(seed)
    for _ in range(20_000):
        clock.now_s += 0.01
        health.note(is_available=draws.random() > 0.05)
        assert not health.is_down()
