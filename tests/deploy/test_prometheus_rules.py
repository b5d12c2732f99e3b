"""deploy/prometheus as Prometheus' own tools and a Prometheus read it; nothing is scraped here."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from qaworker.errors import HaltError, ModelRefused, ProviderDown
from qaworker.exporter.families import HOLD_REASONS, OPERATOR_MODEL
from qaworker.store import heartbeats
from qaworker.store.holds import BUDGET, OPERATOR
from tests.support.processes import ROOT
from tests.support.prometheus import RULES, SHIPPED, Prometheus, program, shortened

RUNBOOK = ROOT / "RUNBOOK.md"
# Why an account is held by itself, which somebody is to mend at once, and why at all.
BROKEN = {HaltError.reason, ProviderDown.reason}
OF_ACCOUNT = {*BROKEN, OPERATOR}
OF_MODEL = {ModelRefused.reason, OPERATOR_MODEL}
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
    firing: set[tuple[str, str]] = set()
    quiet = set()
    for check in text.split("- expr: ")[1:]:
        asked = re.match(r'.*ALERTS\{alertname="(\w+)"', check)
        firing |= set(
            re.findall(
                r'labels: ALERTS\{alertname="(\w+)", alertstate="firing", severity="(\w+)"', check
            )
        )
        if asked and "exp_samples: []" in check:
            quiet.add(asked[1])
    assert firing == {(alert.name, alert.labels["severity"]) for alert in alerts}
    assert quiet >= {alert.name for alert in alerts}


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


def test_every_reason_of_a_hold_but_a_spent_budget_is_told_once(alerts: list[Alert]) -> None:
    said = {
        alert.labels["severity"]: _holds(alert) for alert in alerts if alert.name == "QAWorkerHeld"
    }
    assert said == {"page": [("=~", BROKEN)], "ticket": [("!~", {*BROKEN, BUDGET})]}
    assert {*BROKEN, BUDGET} <= HOLD_REASONS


def test_holds_of_accounts_and_models_explain_what_stands_still_or_comes_back(
    alerts: list[Alert],
) -> None:
    said = {
        (alert.name, alert.labels["severity"]): found
        for alert in alerts
        if alert.name != "QAWorkerHeld" and (found := _holds(alert))
    }
    assert said == {
        ("QAWorkerQueueStalled", "page"): [("=~", OF_ACCOUNT | OF_MODEL)],
        ("QAWorkerQueueStalled", "ticket"): [("=~", OF_MODEL), ("=~", OF_ACCOUNT)],
        ("QAWorkerRedelivery", "ticket"): [("=~", OF_ACCOUNT | OF_MODEL)],
    }
    assert OF_ACCOUNT | OF_MODEL <= HOLD_REASONS


def _holds(alert: Alert) -> list[tuple[str, set[str]]]:
    """How an alert asks for holds: the operator and the reasons, in its order."""
    found = re.findall(r'qaworker_held\{reason(=~|!~)"([\w|]+)"', alert.query)
    return [(match, set(reasons.split("|"))) for match, reasons in found]


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
