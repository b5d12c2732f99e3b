"""The dashboard is in order: what it shows exists, says how to read it, and fits a screen."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker.exporter.collector import Collector
from qaworker.exporter.looking import Looking
from tests.support.dashboard import DASHBOARD, dashboard, panels, queries
from tests.support.prometheus import RULES, program

COLUMNS = 24
# A unit is 38 pixels high: of 1,080 the browser and Grafana's own bars take about 240.
SCREEN = 22
# What Grafana knows by itself.
BUILT_IN = {"__rate_interval", "__range"}
METRIC = re.compile(r"\bqaworker_\w+")
# How the samples of one metric are named.
SAMPLES = {"counter": "_total", "info": "_info"}
OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")

each_panel = pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])


def test_it_is_written_as_a_formatter_writes_it() -> None:
    formatted = json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
    assert DASHBOARD.read_text(encoding="utf-8") == formatted


def test_it_is_where_alerts_point() -> None:
    addresses = set(re.findall(r"dashboard_url: https?://[^/]+(\S*)", RULES.read_text("utf-8")))
    assert addresses == {f"/d/{dashboard()['uid']}/{dashboard()['title']}"}


def test_no_panel_is_another() -> None:
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    titles = [panel["title"] for panel in everything]
    assert len(set(titles)) == len(titles)


def test_no_panel_covers_another_or_leaves_the_grid() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS, panel["title"]
        columns = range(place["x"], place["x"] + place["w"])
        lines = range(place["y"], place["y"] + place["h"])
        for spot in itertools.product(columns, lines):
            assert taken.setdefault(spot, panel["title"]) == panel["title"]
    # Grafana would move a panel up into a gap.
    assert len(taken) == COLUMNS * (1 + max(line for _, line in taken))


def test_the_first_questions_fit_one_screen() -> None:
    rows = [panel["gridPos"]["y"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert min(rows) <= SCREEN
    first = [panel["title"] for panel in panels() if panel["gridPos"]["y"] < min(rows)]
    for question in ("Flow", "Waiting", "Limits", "Failures", "Cost"):
        assert any(title.startswith(question) for title in first)


@each_panel
def test_a_panel_has_a_unit_and_says_how_to_read_it(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 60
    assert panel["description"].endswith(".")
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_runbook_links_lead_to_alerts_and_every_alert_is_seen() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text("utf-8")))
    linked = set()
    for link in itertools.chain.from_iterable(panel.get("links", ()) for panel in panels()):
        title, _, alert = link["title"].partition(": ")
        assert title == "Runbook"
        assert link["url"] == "${runbook}" + (f"#{alert.lower()}" if alert else "")
        linked |= {alert} - {""}
    assert linked == alerts


def test_every_metric_of_the_exporter_is_shown_and_no_other(redis_client: Redis) -> None:
    looking = Looking(redis_client, redis_client, keep=timedelta(days=1))
    exported = {
        family.name + SAMPLES.get(family.type, "") for family in Collector(looking).collect()
    }
    named = {name for query in queries() for name in METRIC.findall(query.expression)}
    sites = {name for name in named if name.startswith("qaworker_site")}
    shown = {OF_HISTOGRAM.sub("", name) for name in named - sites}
    assert shown == exported


def test_recorded_numbers_are_those_of_the_rules() -> None:
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text("utf-8")))
    shown = {
        name
        for query in queries()
        for name in re.findall(r"\bqaworker\w*:[\w:]+", query.expression)
    }
    assert shown <= recorded
    assert "qaworker_site:queue_long_messages" in shown


def test_queries_ask_one_exporter_and_know_their_variables() -> None:
    known = {variable["name"] for variable in dashboard()["templating"]["list"]} | BUILT_IN
    for query in queries():
        assert query.variables <= known, query
        chosen = query.expression.count('{instance="$instance"')
        metrics = re.findall(r"\bqaworker[\w:]*", query.expression)
        assert chosen == len([name for name in metrics if "_site:" not in name]), query


def test_what_counters_that_went_back_would_falsify_is_not_known(tmp_path: Path) -> None:
    """Redis lost its last second within the hour; nothing ran; half of the chunks died."""
    chunks = 'qaworker_chunks_total{{instance="{}", outcome="{}"}}'
    cost = 'qaworker_cost_dollars_total{{instance="{}", model="gpt-5-mini"}}'
    samples = {
        chunks.format("went back", "dead"): "9000+80x90 16150+80x30",
        cost.format("went back"): "1000x90 999.9x30",
        chunks.format("idle", "dead"): "9000x120",
        cost.format("idle"): "1000x120",
        chunks.format("works", "ok"): "0+10x120",
        chunks.format("works", "dead"): "0+10x120",
        cost.format("works"): "0+0.25x120",
    }
    seen = {"went back": [], "idle": [{"value": 0}], "works": [{"value": 1}]}
    asked = [query for query in queries() if query.panel in {"Cost, 24 h", "Dead chunks, 1 h"}]
    checks = [
        {
            "expr": f"({query.sent(instance=instance)}) > bool 0",
            "eval_time": "2h",
            "exp_samples": [{"labels": "{}", **sample} for sample in shown],
        }
        for query, (instance, shown) in itertools.product(asked, seen.items())
    ]
    assert len(checks) == 6
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": of} for name, of in samples.items()],
        "promql_expr_test": checks,
    }
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "tests": [test]}), "utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # Else an old value of the range would be shown in its place.
    for panel in panels():
        if panel["title"] in {query.panel for query in asked}:
            assert [target.get("instant") for target in panel["targets"]] == [True]
            assert panel["fieldConfig"]["defaults"]["noValue"] == "not known"
