"""Every panel of the dashboard shows what a run did, asked of a real Prometheus that scraped it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from qaworker.store import fleet
from tests.acceptance.site import Site, events
from tests.support.dashboard import Query, dashboard, queries
from tests.support.processes import Process
from tests.support.prometheus import RULES, SCRAPE_S, Prometheus, shortened
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

CHUNKS: Final = 100
MODEL: Final = "gpt-5-mini"
# Longer than workers take to say with a heartbeat that they drain.
SLOW_S: Final = 8.0
REASONS: Final = {
    "429": "throttled",
    "500": "unavailable",
    "malformed": "invalid",
    "truncated": "truncated",
    "refusal": "refused",
    "quota": "halted",
}
"""What a fault of the simulator is called."""
FAULTS: Final = [f"--fault={kind}={'0.1' if kind == 'refusal' else '0.05'}" for kind in REASONS][
    :-1
]

SHOWN_WITHOUT_A_RUN: Final = {"Redis", "Version", "Time to collect"}
# More than the test takes.
LOOK_BACK: Final = "5m"

Series = frozenset[tuple[str, str]]
"""The labels of one."""


class Screen:
    """The dashboard before the eyes of somebody who chose an exporter, a worker and a model."""

    def __init__(self, prometheus: Prometheus, **values: str) -> None:
        self._prometheus = prometheus
        # As Grafana reckons it.
        self._values = {"__rate_interval": f"{4 * SCRAPE_S}s", "__range": LOOK_BACK, **values}

    def seen(self, query: Query, extreme: str = "max") -> dict[Series, float]:
        """Each series of a query that there ever was, with the extreme value it had."""
        expression = f"{extreme}_over_time(({query.sent(**self._values)})[{LOOK_BACK}:{SCRAPE_S}s])"
        samples = self._prometheus.query(expression)
        return {frozenset(sample.labels.items()): sample.value for sample in samples}

    def shown(self, query: Query) -> set[Series]:
        """The series of a query that ever had another value than 0."""
        return {series for series, value in self.seen(query).items() if value > 0}

    def choices(self, variable: dict[str, Any]) -> list[str]:
        """What a variable of the dashboard lets choose from."""
        call = Query("", "", variable["query"]["query"]).sent(**self._values)
        series, _, label = call.removeprefix("label_values(").removesuffix(")").rpartition(", ")
        answer = self._prometheus.get(f"/api/v1/label/{label}/values", **{"match[]": series})
        found: list[str] = answer["data"]
        return found


def is_line(query: Query) -> bool:
    """Whether it draws the threshold of an alert, which is there with the rules."""
    return query.legend == "alert above"


def _start_exporter(site: Site) -> str:
    exporter = site.command("exporter", "--listen", "127.0.0.1:0", QAWORKER_LOG_FORMAT="json")

    def port() -> int:
        exporter.check_alive()
        ports = [event["port"] for event in events(exporter) if event["event"] == "exporter_serves"]
        return ports[0] if ports else 0

    return f"127.0.0.1:{wait_until(port, 30, 'the exporter to serve')}"


def _submit(site: Site, chunks: int, first: int) -> Process:
    dataset = site.dataset(chunks, first=first)
    return site.command("submit", "--input-file", dataset, "--model", MODEL, "--json")


def _live_through_everything(
    site: Site, redis: RedisServer, prometheus: Prometheus
) -> tuple[str, set[str]]:
    """Let happen what panels tell of; the worker that drained, and the faults that were met."""
    # Work waits; a worker begins, is told to end, and leaves the rest to another one.
    site.finish(_submit(site, CHUNKS, first=0))
    prometheus.wait_for('qaworker_queue_messages{state="ready"} > 0', 15)
    prometheus.wait_for("qaworker_queue_oldest_message_age_seconds > 0", 15)
    fleet.expect(site.redis, "host", 2)
    first = site.worker(1)
    site.wait_in_flight(1)
    first.terminate()
    site.api.set_latency(1)
    site.worker(2)
    prometheus.wait_for(f"max_over_time(qaworker_worker_draining[{LOOK_BACK}]) > 0", 20)
    prometheus.wait_for(f"sum(qaworker_chunks_total) == {CHUNKS}", 90)

    # The account's money is used up, and then Redis is lost.
    site.api.set_faults(quota=1)
    site.finish(_submit(site, 5, first=CHUNKS))
    prometheus.wait_for('qaworker_held{reason="halted"} > 0', 20)
    prometheus.wait_for('rate(qaworker_failures_total{reason="halted"}[4s] offset 2s) > 0', 20)
    prometheus.wait_for(f"max_over_time(qaworker:chunks_dead:ratio_rate1h[{LOOK_BACK}]) > 0", 20)
    faults = set(site.api.stats()["faults"])
    redis.stop()
    prometheus.wait_for("qaworker_broker_up == 0", 20)
    prometheus.wait_for("rate(qaworker_exporter_collect_errors_total[4s] offset 2s) > 0", 20)
    return first.name, faults


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_every_query_of_every_panel_shows_the_run(
    tmp_path: Path,
    start_redis: Callable[..., RedisServer],
    open_site: Callable[[str], Site],
) -> None:
    redis = start_redis()
    site = open_site(redis.url)
    site.simulate(f"--latency={SLOW_S}", "--rpm=1200", "--tpm=400000", *FAULTS)
    directory = tmp_path / "prometheus"
    directory.mkdir()
    instance = _start_exporter(site)
    rules = shortened(RULES.read_text(encoding="utf-8"))
    with Prometheus(directory, {"qaworker": instance}, rules=rules) as prometheus:
        # Old enough for a step of a subquery to meet them.
        prometheus.wait_for("qaworker_broker_up offset 2s == 1", 15)
        prometheus.wait_for("qaworker_site:queue_long_messages offset 2s", 15)
        idle = Screen(prometheus, instance=instance, worker="", model="")
        before = {query: idle.shown(query) for query in queries()}
        panels = {query.panel for query, series in before.items() if series and not is_line(query)}
        # Until it is scraped for the first time, the exporter counts as down.
        assert panels - {"Alerts firing"} == SHOWN_WITHOUT_A_RUN

        worker, faults = _live_through_everything(site, redis, prometheus)
        chosen = {"instance": instance, "worker": worker, "model": MODEL}
        screen = Screen(prometheus, **chosen)
        unmoved = [query for query in queries() if not screen.shown(query) - before[query]]
        assert {query.panel for query in unmoved if not is_line(query)} == SHOWN_WITHOUT_A_RUN
        assert all(screen.shown(query) for query in unmoved)

        by_panel = {query.panel: query for query in queries()}
        assert min(screen.seen(by_panel["Redis"], "min").values()) == 0
        failures = screen.shown(by_panel["Failures by reason, per minute"])
        reasons = {dict(series)["reason"] for series in failures}
        assert reasons == {REASONS[fault] for fault in faults} == set(REASONS.values())

        marks = dashboard()["annotations"]["list"][0]["target"]["expr"]
        alerts = {dict(series)["alertname"] for series in screen.shown(Query("", "", marks))}
        assert "QAWorkerDeadLetters" in alerts
        for variable in dashboard()["templating"]["list"]:
            if variable["type"] == "query":
                assert chosen[variable["name"]] in screen.choices(variable)
        assert not prometheus.rule_errors()
