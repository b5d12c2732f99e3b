"""deploy/prometheus as Prometheus' own tools and a Prometheus read it; nothing is scraped here."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from qaworker.errors import HaltError, ModelRefused, ProviderDown
from qaworker.exporter.families import HOLD_REASONS, OPERATOR_PART
from qaworker.store import heartbeats
from qaworker.store.holds import OPERATOR
from tests.support.processes import ROOT
from tests.support.prometheus import RULES, SHIPPED, Prometheus, program, shortened

RUNBOOK = ROOT / "RUNBOOK.md"
# Why else workers hand back what waits for a hold.
HELD_BACK = {ModelRefused.reason, OPERATOR, OPERATOR_PART}
# Series of a worker end so long after its last beat.
OUTLIVE = 3
_RANGE = re.compile(r"\[(\d+[smhd])\]")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Alert:
    """One alert rule."""

    name: str
    query: str
    for_s: float
    labels: dict[str, str]
    annotations: dict[str, str]


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All rules of the file, as a Prometheus that took it knows them."""
    text = RULES.read_text("utf-8")
    with Prometheus(tmp_path_factory.mktemp("prometheus"), {}, rules=text) as prometheus:
        groups = prometheus.get("/api/v1/rules")["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def alerts(rules: list[dict[str, Any]]) -> list[Alert]:
    return [
        Alert(rule["name"], rule["query"], rule["duration"], rule["labels"], rule["annotations"])
        for rule in rules
        if rule["type"] == "alerting"
    ]


@pytest.mark.parametrize(
    "command",
    [
        ("promtool", "check", "rules", "--lint-fatal", "qaworker.rules.yml"),
        ("promtool", "check", "config", "scrape.yml"),
        ("promtool", "test", "rules", "qaworker.rules.test.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ],
    ids=" ".join,
)
def test_its_own_tools_find_nothing_wrong(command: tuple[str, ...]) -> None:
    name, *arguments = command
    done = subprocess.run(
        [program(name), *arguments], cwd=SHIPPED, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_firing_and_quiet(alerts: list[Alert]) -> None:
    text = (SHIPPED / "qaworker.rules.test.yml").read_text("utf-8")
    firing, quiet = set(), set()
    for check in text.split("- expr: ")[1:]:
        asked = re.match(r'.*ALERTS\{alertname="(\w+)"', check)
        firing |= set(re.findall(r'labels: ALERTS\{alertname="(\w+)", alertstate="firing"', check))
        if asked and "exp_samples: []" in check:
            quiet.add(asked[1])
    names = {alert.name for alert in alerts}
    assert firing == names
    assert quiet >= names


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert(
    alerts: list[Alert],
) -> None:
    headings = re.findall(r"(?m)^#{2,4} (QAWorker\w+)$", RUNBOOK.read_text("utf-8"))
    assert sorted(headings) == sorted({alert.name for alert in alerts})


def test_every_alert_says_what_users_see_and_where_to_look(alerts: list[Alert]) -> None:
    for alert in alerts:
        assert alert.labels["severity"] in {"page", "ticket"}, alert
        assert set(alert.annotations) == {
            *("summary", "description"),
            *("runbook_url", "dashboard_url"),
        }, alert
        assert alert.annotations["summary"].endswith("."), alert
        runbook, _, anchor = alert.annotations["runbook_url"].partition("#")
        assert runbook == "https://github.com/example/qaworker/blob/main/RUNBOOK.md", alert
        assert anchor == alert.name.lower()
        assert alert.annotations["dashboard_url"].endswith("/d/qaworker/qaworker"), alert


def test_the_series_of_a_worker_outlive_every_rule(
    rules: list[dict[str, Any]], alerts: list[Alert]
) -> None:
    """Else a rule about a worker that is gone would be dead at the values that it is shipped with."""
    kept_s = heartbeats._FORGET.total_seconds()
    assert max(alert.for_s for alert in alerts) * OUTLIVE <= kept_s
    about_workers = [rule["query"] for rule in rules if "qaworker_worker_" in rule["query"]]
    assert about_workers
    ranges = [
        int(span[:-1]) * _SECONDS[span[-1]]
        for query in about_workers
        for span in _RANGE.findall(query)
    ]
    assert max(ranges, default=0) * OUTLIVE <= kept_s


def test_thresholds_are_set_before_they_are_asked_for(rules: list[dict[str, Any]]) -> None:
    """A rule whose threshold has another name is never true."""
    thresholds = {rule["name"] for rule in rules if rule["name"].startswith("qaworker_site:")}
    asked = {name for rule in rules for name in re.findall(r"qaworker_site:\w+", rule["query"])}
    assert asked == thresholds


def test_every_reason_of_a_hold_is_told_once_and_only_those_of_all_explain_a_stall(
    alerts: list[Alert],
) -> None:
    said = {
        (alert.name, alert.labels["severity"]): found
        for alert in alerts
        for found in re.findall(r'qaworker_held\{reason(=~|!~)"([\w|]+)"', alert.query)
    }
    page = {HaltError.reason, ProviderDown.reason}
    found = {key: (match, set(reasons.split("|"))) for key, (match, reasons) in said.items()}
    handed_back = found.pop(("QAWorkerRedelivery", "ticket"))
    assert found == {
        ("QAWorkerHeld", "page"): ("=~", page),
        ("QAWorkerHeld", "ticket"): ("!~", page),
        ("QAWorkerQueueStalled", "page"): ("=~", {*page, OPERATOR}),
    }
    assert handed_back == ("=~", {*page, *HELD_BACK})
    assert {*page, *HELD_BACK} <= HOLD_REASONS


def test_short_rules_for_tests_differ_in_times_and_thresholds_alone() -> None:
    shipped = RULES.read_text("utf-8")
    short = shortened(shipped, queue_long_messages=3)
    differing = [
        (before.strip(), after.strip())
        for before, after in zip(shipped.splitlines(), short.splitlines(), strict=True)
        if before != after
    ]
    assert ("expr: vector(100)", "expr: vector(3)") in differing
    assert ("for: 10m", "for: 10s") in differing
    assert ("for: 1h", "for: 60s") in differing
    spans = re.compile(r"(\[|for: )\d+[smhd]\b")
    for before, after in differing[1:]:
        assert spans.sub("", before) == spans.sub("", after)
