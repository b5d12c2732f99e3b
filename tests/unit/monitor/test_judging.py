from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qaworker.limits.states import Kind, LimiterState
from qaworker.monitor import healing
from qaworker.monitor.judging import CHECKS, Limits, judge
from qaworker.status.picture import Shared, Status, Worker
from qaworker.store.holds import Hold
from qaworker.store.overview import Queue

ALL = frozenset(CHECKS)
LIMITS = Limits(
    queue_length=100, message_age_s=600, heartbeat_age_s=60, call_wait_s=120, dead_letters=3
)


def worker(number: int, host: str = "here", **more: Any) -> Worker:
    fields: dict[str, Any] = {
        "pid": 100 + number,
        "owner": "systemd",
        "state": "consuming",
        "account": "1a2b3c4d",
    }
    return Worker(
        f"qa_worker-{number}@{host}", host, number, **fields | {"heartbeat_age_s": 1.0} | more
    )


def hold(scope: str, by: str = "host:1") -> Hold:
    return Hold(scope=scope, reason="halted", detail="no quota", by=by, since=100.0, probe_at=115.0)


def limiter(**more: Any) -> LimiterState:
    kind = Kind(3500, "table", 5)
    moments: dict[str, Any] = {"paused_until": None, "waits_since": None} | more
    return LimiterState("1a2b3c4d", "gpt-5-mini", kind, kind, 1.0, 3, **moments)


WELL = Status(
    host="here",
    owner="systemd",
    expected=2,
    recorded=2,
    workers=[worker(1), worker(2)],
    queues=[Queue("qa_generation", 100, 64, 600.0), Queue("low_priority", 0, 0, None)],
    latency_ms=0.3,
)


def found(seen: Status, limits: Limits = LIMITS) -> dict[str, str]:
    """The texts of the problems, by check."""
    return {name: p.text for name, p in judge(seen, limits, ALL).items() if p is not None}


def test_at_the_limits_all_is_well() -> None:
    assert judge(WELL, LIMITS, ALL) == dict.fromkeys(CHECKS)


@pytest.mark.parametrize(
    ("check", "worse", "words"),
    [
        ("redis", {"redis_error": "no answer"}, ["no answer"]),
        (
            "queue-length",
            {"queues": [Queue("low_priority", 101, 0, None)]},
            ["101", "low_priority", "100"],
        ),
        (
            "message-age",
            {"queues": [Queue("low_priority", 1, 0, 780.0)]},
            ["low_priority", "13 min", "10 min"],
        ),
        (
            "heartbeat",
            {"workers": [worker(1), worker(2), worker(3, heartbeat_age_s=120.0)], "expected": 3},
            ["qa_worker-3@here", "2 min", "1 min"],
        ),
        ("expected", {"expected": 3}, ["2 of 3", "here"]),
        (
            "quiet",
            {"workers": [worker(1, state="quiet"), worker(2, state="draining")]},
            ["qaworker drain --resume"],
        ),
        ("expected", {"expected_elsewhere": {"there": 4}}, ["0 of 4", "there"]),
        (
            "held",
            {"shared": Shared(holds=[hold("account@1a2b3c4d")])},
            ["account@1a2b3c4d", "no quota", "1970-01-01 00:01:40 UTC"],
        ),
        (
            "held",
            {"shared": Shared(holds=[hold("model:gpt-5-mini@ffffffff")])},
            ["model:gpt-5-mini@ffffffff"],
        ),
        ("limiter", {"shared": Shared(limiters=[limiter(paused_until=100)])}, ["gpt-5-mini"]),
        (
            "limiter",
            {"workers": [worker(1, oldest_wait_s=180.0), worker(2)]},
            ["qa_worker-1@here", "3 min", "2 min"],
        ),
        (
            "dead-letters",
            {"shared": Shared(dead_letters=9, dead_recently=4)},
            ["qaworker dead list", "4", "9", "3"],
        ),
    ],
)
def test_one_thing_wrong_is_one_problem(check: str, worse: Any, words: list[str]) -> None:
    problems = found(replace(WELL, **worse))
    assert list(problems) == [check]
    for word in words:
        assert word in problems[check]


@pytest.mark.parametrize(
    "well",
    [
        Shared(holds=[hold("run:0a1b"), hold("account@ffffffff")]),
        # At its limit, which is what it is for.
        Shared(limiters=[limiter(waits_since=0)]),
        Shared(dead_letters=9, dead_recently=3),
    ],
    ids=["held for others", "at the limit", "died before"],
)
def test_what_needs_nobody_is_no_problem(well: Shared) -> None:
    assert found(replace(WELL, shared=well)) == {}


@pytest.mark.parametrize(
    ("by", "scope", "severity"),
    [
        ("host:1", "account@1a2b3c4d", "critical"),
        ("operator", "account@1a2b3c4d", "warning"),
        ("host:1", "model:gpt-5-mini@1a2b3c4d", "warning"),
    ],
)
def test_an_account_that_broke_is_graver_than_what_somebody_wants(
    by: str, scope: str, severity: str
) -> None:
    seen = replace(WELL, shared=Shared(holds=[hold(scope, by=by)]))
    problem = judge(seen, LIMITS, ALL)["held"]
    assert problem is not None
    assert problem.severity == severity


def test_without_any_living_worker_there_is_an_alarm() -> None:
    dead = replace(WELL, workers=[worker(1, state="silent"), worker(2, state="failed")])
    assert {"workers", "expected"} == found(dead).keys()
    problem = judge(dead, LIMITS, ALL)["workers"]
    assert problem is not None
    assert problem.severity == "critical"
    assert "100" in problem.text


def test_one_quiet_worker_is_nobodys_concern() -> None:
    assert found(replace(WELL, workers=[worker(1), worker(2, state="quiet")])) == {}


def test_a_living_worker_on_another_host_is_one() -> None:
    seen = replace(WELL, workers=[], elsewhere=[worker(1, "there")])
    assert found(seen).keys() == {"expected"}


def test_no_worker_is_an_alarm_also_where_none_was_ever_started() -> None:
    assert "workers" in found(replace(WELL, workers=[], expected=0, recorded=None))


def test_workers_that_were_stopped_on_purpose_are_no_alarm() -> None:
    stopped = replace(WELL, workers=[], expected=0, recorded=0)
    assert found(stopped) == {}
    # Another host's are still to run.
    assert "workers" in found(replace(stopped, expected_elsewhere={"there": 2}))


def test_a_killed_worker_that_is_not_to_run_any_more_is_no_concern() -> None:
    left = [worker(1), worker(2), worker(3, state="gone", pid=0, heartbeat_age_s=7200.0)]
    assert found(replace(WELL, workers=left)) == {}


def test_a_worker_that_is_being_replaced_alarms_nobody_at_the_first_look() -> None:
    assert CHECKS["expected"].sightings == 2
    assert CHECKS["workers"].sightings == 1


def test_without_redis_nothing_else_is_judged() -> None:
    assert judge(replace(WELL, redis_error="no answer"), LIMITS, ALL).keys() == {"redis"}


def test_only_what_is_named_is_judged() -> None:
    assert judge(WELL, LIMITS, frozenset({"heartbeat"})).keys() == {"heartbeat"}


GONE = replace(WELL, workers=[worker(1, state="failed", pid=0), worker(2, state="gone", pid=0)])


def test_workers_that_are_all_gone_are_to_be_started() -> None:
    assert healing.is_due(GONE)
    assert healing.is_due(replace(GONE, workers=[], recorded=None))


@pytest.mark.parametrize(
    "more",
    [
        {"workers": [worker(1), worker(2, state="failed", pid=0)]},
        {"workers": [worker(1, state="silent")]},
        {"redis_error": "no answer"},
        {"owner_error": "no answer"},
        {"expected": 0},
        {"recorded": 0},
    ],
    ids=["one lives", "one hangs", "no Redis", "no owner", "none wanted", "stopped"],
)
def test_otherwise_they_are_not(more: Any) -> None:
    assert not healing.is_due(replace(GONE, **more))


def test_three_starts_an_hour_are_enough() -> None:
    starts = [0.0, 3000.0, 3500.0]
    problem = healing.exhausted(healing.recent(starts, 3599.0))
    assert problem is not None
    assert problem.severity == "critical"
    assert healing.exhausted(healing.recent(starts, 3600.0)) is None


def test_a_clock_that_was_set_back_does_not_forbid_starts() -> None:
    assert healing.recent([3599.0, 7200.0, 7300.0, 7400.0], 3600.0) == [3599.0]
