"""What the statistics count, on an injected clock."""

from __future__ import annotations

import pytest

from qaworker.simulator.stats import Stats


def test_the_mean_in_flight_is_weighted_by_time() -> None:
    now = 0.0
    stats = Stats(lambda: now)
    with stats.in_flight():
        now = 1.0
        with stats.in_flight(), stats.in_flight():
            now = 3.0
        now = 4.0
    now = 10.0
    snapshot = stats.snapshot()
    assert snapshot["in_flight_seconds"] == pytest.approx(1 * 1 + 3 * 2 + 1 * 1)
    assert snapshot["in_flight_mean"] == pytest.approx(0.8)
    assert (snapshot["in_flight"], snapshot["in_flight_peak"]) == (0, 3)


def test_a_reset_keeps_what_is_in_flight() -> None:
    now = 0.0
    stats = Stats(lambda: now)
    with stats.in_flight():
        now = 5.0
        stats.charge(["a"])
        stats.reset()
        now = 6.0
        snapshot = stats.snapshot()
    assert (snapshot["in_flight"], snapshot["in_flight_peak"], snapshot["in_flight_mean"]) == (
        1,
        1,
        1,
    )
    assert (snapshot["charged"], snapshot["window_s"], snapshot["uptime_s"]) == (0, 1, 6)
    assert stats.snapshot()["in_flight"] == 0


def test_a_call_is_counted_for_each_chunk_of_its_prompt() -> None:
    stats = Stats(lambda: 0.0)
    stats.charge(["one", "二"])
    stats.charge(["二", "三"])
    snapshot = stats.snapshot()
    assert (snapshot["charged"], snapshot["distinct_chunks"], snapshot["max_calls_per_chunk"]) == (
        2,
        3,
        2,
    )
