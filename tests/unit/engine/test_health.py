from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from qaworker.engine.health import LARGEST_WINDOW, LEAST_FAILURES, WINDOW_S, Health, Trial


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


def note(health: Health, calls: str) -> bool:
    """Calls one after the other; ``+`` is one the provider was available for. Whether it is down."""
    is_down = False
    for call in calls:
        trial = health.begin()
        if call == "+":
            health.answered()
        else:
            is_down = health.failed(trial)
    return is_down


@pytest.mark.parametrize(
    ("calls", "is_down"),
    [
        ("-", False),
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
    assert note(health, calls) == is_down


def test_failures_are_forgotten_after_the_window(health: Health, clock: Clock) -> None:
    note(health, "-" * (LEAST_FAILURES - 1))
    clock.now_s = WINDOW_S + 0.1
    assert not note(health, "-")
    assert note(health, "-" * (LEAST_FAILURES - 1))


def test_after_a_hold_it_begins_anew(health: Health) -> None:
    note(health, "-" * 50)
    health.forget()
    assert not note(health, "-" * (LEAST_FAILURES - 1))


def test_an_answer_is_remembered_however_many_failures_follow(health: Health, clock: Clock) -> None:
    assert not health.has_answered_since(-1)
    clock.now_s = 10
    note(health, "+")
    clock.now_s = 1000
    note(health, "-" * 1000)
    health.forget()
    assert health.has_answered_since(9)
    assert not health.has_answered_since(10)


def alarms(clock: Clock, ends_of: Callable[[float], tuple[float, bool]], calls: int) -> list[float]:
    """When an outage is seen, of calls that begin 20 ms apart and end so many seconds later, so."""
    health = Health(clock)
    fates = [ends_of(number * 0.02) for number in range(calls)]
    begins = [(number * 0.02, number, True) for number in range(calls)]
    ends = [(at_s + fates[number][0], number, False) for at_s, number, _ in begins]
    trials: dict[int, Trial] = {}
    alarms_s = []
    for clock.now_s, number, is_begin in sorted(begins + ends):
        if is_begin:
            trials[number] = health.begin()
        elif fates[number][1]:
            health.answered()
        elif health.failed(trials[number]):
            alarms_s.append(clock.now_s)
    return alarms_s


@pytest.mark.parametrize("fails_after_s", [0.001, 1, 60])
@pytest.mark.parametrize("seed", range(5))
def test_a_provider_that_fails_now_and_then_is_not_down(
    clock: Clock, seed: int, fails_after_s: float
) -> None:
    """However much sooner than an answer a failure comes: nothing is answered in the first seconds."""
    draws = random.Random(seed)

    def now_and_then(_: float) -> tuple[float, bool]:
        return (fails_after_s, False) if draws.random() < 0.1 else (draws.uniform(2, 8), True)

    assert alarms(clock, now_and_then, 5000) == []


@pytest.mark.parametrize(
    ("fails_after_s", "seen_after_s"),
    [(lambda _: 0.001, 1), (lambda draws: draws.uniform(1, 6), 7), (lambda _: 100.0, 102)],
    ids=["at once", "slowly", "by timeouts"],
)
@pytest.mark.parametrize("seed", range(5))
def test_an_outage_is_seen_at_once_whenever_its_failures_come(
    clock: Clock, seed: int, fails_after_s: Callable[[random.Random], float], seen_after_s: float
) -> None:
    draws = random.Random(seed)

    def until_ten(begins_s: float) -> tuple[float, bool]:
        if begins_s < 10 or draws.random() < 0.1:
            return draws.uniform(2, 8), True
        return fails_after_s(draws), False

    first_s = alarms(clock, until_ten, 2000)[0]
    assert 10 < first_s < 10 + seen_after_s


def test_it_is_seen_that_all_calls_on_the_wire_failed_at_once_whichever_says_so_last(
    health: Health,
) -> None:
    trials = [health.begin() for _ in range(16)]
    assert [health.failed(trial) for trial in reversed(trials)] == [False] * 7 + [True] * 9
