"""What is said of holds, dead letters and limiters at three in the morning."""

from __future__ import annotations

from typing import Any

import pytest

from qaworker.cli import calling
from qaworker.limits.states import Kind, LimiterState
from qaworker.status.picture import Shared, Worker
from qaworker.store.holds import BUDGET, OPERATOR, Hold

OWN = "1a2b3c4d"
NOW = 1000.0
WORKERS = [Worker("qa_worker-1@here", "here", 1, 101, "systemd", "consuming", account=OWN)]


def held(
    scope: str, reason: str, *, by: str = "host:1", detail: str = "", probe_at: float = NOW
) -> list[str]:
    times = {"since": NOW - 750, "probe_at": probe_at}
    hold = Hold(scope=scope, reason=reason, detail=detail, by=by, **times)
    return list(calling.held(Shared(NOW, [hold]), WORKERS))


def test_a_hold_says_since_when_and_why() -> None:
    said, _ = held(f"account@{OWN}", "halted", detail="the API answered 401")
    assert said == (
        f"Held: account@{OWN} since 1970-01-01 00:04:10 UTC (12 min): halted: the API answered 401"
    )


@pytest.mark.parametrize(
    ("scope", "reason", "by", "words"),
    [
        (f"account@{OWN}", "halted", "host:1", ["correct the account", "15 s", "restart"]),
        (f"account@{OWN}", "provider_down", "host:1", ["15 s", "by itself"]),
        (f"model:gpt-5-mini@{OWN}", "model_refused", "host:1", ["15 s", "qaworker cancel"]),
        (f"account@{OWN}", "invoice", OPERATOR, ["operator"]),
        ("account@ffffffff", "halted", "host:1", ["no worker uses this account", "minutes"]),
        ("account@ffffffff", "halted", OPERATOR, ["no worker uses this account", "clears it"]),
        ("run:0a1b", "invoice", OPERATOR, ["operator"]),
    ],
)
def test_a_hold_says_what_ends_it(scope: str, reason: str, by: str, words: list[str]) -> None:
    _, remedy = held(scope, reason, by=by)
    for word in [*words, f"`qaworker hold release {scope}`"]:
        assert word in remedy


def test_a_hold_that_nobody_waits_for_is_said_to_end() -> None:
    _, remedy = held(f"model:typo@{OWN}", "model_refused", probe_at=NOW - 10)
    assert remedy.strip().startswith("no worker has work for it: ")
    assert "15 s" not in remedy


def test_a_budget_is_raised_and_not_released() -> None:
    _, remedy = held("run:0a1b", BUDGET)
    assert "--budget" in remedy
    assert "release" not in remedy


def test_what_a_hold_quotes_moves_no_cursor() -> None:
    said, _ = held("run:0a1b", "two\nlines\x1b[2J")
    assert "\n" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ({}, "below its limit"),
        ({"waits_since": NOW - 90}, "at its limit for 1 min"),
        (
            {"paused_until": NOW + 7, "share": 0.64},
            "the provider wants a pause until 1970-01-01 00:16:47 UTC, slowed to 64%",
        ),
    ],
)
def test_a_limiter_says_what_it_grants_and_who_waits(more: dict[str, Any], state: str) -> None:
    moments = {"share": 1.0, "paused_until": None, "waits_since": None} | more
    limiter = LimiterState(
        OWN,
        "gpt-5-mini",
        Kind(0, "none", 0),
        Kind(2_000_000, "provider", 5),
        open_reservations=31,
        **moments,
    )
    _, line = calling.limiters(Shared(NOW, limiters=[limiter])).splitlines()
    cells = [cell.strip() for cell in line.split("  ") if cell]
    assert cells == ["gpt-5-mini", "no limit", "2000000 (provider)", "31", state]
