"""What the exporter shows is what happened: at every scrape, and after kills."""

from __future__ import annotations

import math
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Final

import pytest

from qaworker import app as celery
from qaworker import tasks
from qaworker.llm.prices import MICROS, cost_micros, price_of
from qaworker.models import Usage
from tests.acceptance.site import Site, station
from tests.support.processes import Process
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

MODEL: Final = "gpt-5-mini"
NO_LIMIT: Final = {"QAWORKER_TPM": "0", "QAWORKER_RPM": "0"}
# Eight calls at once and a second each: some seconds of work for two workers.
THREADS = 8
WORKERS = 2
SLOW: Final = {"QAWORKER_THREADS": str(THREADS)}
CHUNKS = 200
SCRAPE_EVERY_S = 0.2
# From the moment an outcome is stored its message is acknowledged, on a slow machine.
ACKNOWLEDGED_S = 2.0
# The lease of a dead worker's messages, and the sweep for them.
REDELIVERED_S = 100.0


@dataclass(frozen=True)
class Scrape:
    """One page of metrics."""

    at_s: float
    values: dict[str, float]

    def total(self, name: str, *labels: str) -> float:
        """The sum of all series of a name with these labels."""
        return sum(
            value
            for series, value in self.values.items()
            if series.partition("{")[0] == name and all(label in series for label in labels)
        )

    @property
    def messages(self) -> float:
        return self.total("qaworker_queue_messages")

    @property
    def settled(self) -> float:
        return self.total("qaworker_chunks_total")

    @property
    def counters(self) -> dict[str, float]:
        """Everything that never goes back, the exporter's own excepted."""
        ends = ("_total", "_count", "_sum", "_bucket")
        return {
            series: value
            for series, value in self.values.items()
            if (name := series.partition("{")[0]).endswith(ends)
            and name.startswith("qaworker_")
            and not name.startswith("qaworker_exporter_")
        }


@dataclass
class Prometheus:
    """Scrapes, and keeps what it saw."""

    port: int
    scrapes: list[Scrape] = field(default_factory=list)

    def scrape(self) -> Scrape:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        values = {series: float(value) for series, _, value in lines}
        assert values["qaworker_broker_up"] == 1
        scrape = Scrape(time.monotonic(), values)
        if self.scrapes:
            before = self.scrapes[-1].counters
            assert not {s for s, value in before.items() if scrape.counters.get(s, 0) < value}
        self.scrapes.append(scrape)
        return scrape

    def watch(self, until: Callable[[Scrape], bool], timeout_s: float) -> None:
        """Scrape five times a second until a scrape shows what is waited for."""
        give_up_at_s = time.monotonic() + timeout_s
        while not until(self.scrape()):
            assert time.monotonic() < give_up_at_s, self.scrapes[-1].values
            # A pace, and not a wait for something.
            time.sleep(SCRAPE_EVERY_S)


def export(site: Site) -> tuple[Process, Prometheus]:
    """Start an exporter; it serves when this returns."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return export_on(site, port), Prometheus(port)


def export_on(site: Site, port: int) -> Process:
    exporter = site.command("exporter", "--listen", f"127.0.0.1:{port}")

    def serves() -> bool:
        exporter.check_alive()
        return "exporter_serves" in exporter.output

    wait_until(serves, 30, "the exporter to serve")
    return exporter


def test_calls_tokens_and_dollars_are_those_of_the_provider(site: Site) -> None:
    api = site.simulate("--latency", "0.2", "--fault", "malformed=0.15")
    for number in range(1, WORKERS + 1):
        site.worker(number, **NO_LIMIT)
    _, prometheus = export(site)
    run = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    prometheus.watch(lambda scrape: scrape.settled == CHUNKS, 60)
    assert run.wait_exit(60) in {0, 1}, run.output
    # What no outcome takes along goes within seconds.
    prometheus.watch(
        lambda scrape: scrape.total("qaworker_openai_requests_total") == api.stats()["calls"], 10
    )
    shown, served = prometheus.scrapes[-1], api.stats()
    summary = site.summary("run")
    for kind, chunks in summary["outcomes"].items():
        assert shown.total("qaworker_chunks_total", f'"{kind}"') == chunks
    assert summary["outcomes"]["ok"] > 0

    malformed = served["faults"]["malformed"]
    assert shown.total("qaworker_openai_requests_total", 'status="invalid"') == malformed > 0
    assert shown.total("qaworker_failures_total") == malformed
    # One of each chunk's two failures was tried again.
    assert shown.total("qaworker_retries_total") == malformed - summary["outcomes"]["dead"]
    assert shown.total("qaworker_call_duration_seconds_count") == served["calls"]
    assert shown.total("qaworker_limiter_wait_seconds_count") == served["calls"]
    assert shown.total("qaworker_task_wait_seconds_count") == math.ceil(CHUNKS / 16)
    assert shown.total("qaworker_redeliveries_total") == 0

    tokens = served["tokens"]
    assert shown.total("qaworker_openai_tokens_total", 'kind="input"') == tokens["prompt"]
    assert shown.total("qaworker_openai_tokens_total", 'kind="output"') == tokens["completion"]
    price = price_of(MODEL)
    assert price is not None
    cost = cost_micros(Usage(input=tokens["prompt"], output=tokens["completion"]), price)
    # Each call is rounded up to a millionth.
    micros = round(shown.total("qaworker_cost_dollars_total") * MICROS)
    assert cost <= micros <= cost + served["calls"]


def test_every_message_is_in_a_queue_or_settled_whoever_is_killed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message holds one chunk, so both can be added up."""
    api = site.simulate("--latency", "1")
    first, _ = (site.worker(number, **NO_LIMIT, **SLOW) for number in range(1, WORKERS + 1))
    exporter, prometheus = export(site)
    monkeypatch.setenv("REDIS_URL", site.redis_url)
    monkeypatch.setattr(celery.app.conf, "broker_url", celery.broker_url(site.redis_url))
    for number in range(CHUNKS):
        chunk = {"chunk_id": f"c{number}", "text": station(number)}
        tasks.generate_qa_for_batch_async.apply_async(
            ([chunk], {"base_url": api.base_url}, MODEL), queue="normal_priority"
        )

    prometheus.watch(lambda scrape: scrape.settled > CHUNKS / 4, 60)
    undisturbed = list(prometheus.scrapes)
    exporter.signal(signal.SIGKILL)
    exporter.wait_exit(10)
    # With all hands full it takes no message from the queue, which would be in neither place then.
    site.wait_in_flight(WORKERS * THREADS)
    first.signal(signal.SIGKILL)
    first.wait_exit(10)
    export_on(site, prometheus.port)
    site.worker(1, **NO_LIMIT, **SLOW)
    prometheus.watch(lambda scrape: not scrape.messages, REDELIVERED_S)

    for scrape in prometheus.scrapes:
        # What is settled between the two counts is in both. What a worker takes is, on its way from
        # the queue to what it holds, in neither: one message of each.
        assert scrape.messages + scrape.settled >= CHUNKS - WORKERS
    for earlier in undisturbed:
        for later in undisturbed:
            if later.at_s > earlier.at_s + ACKNOWLEDGED_S:
                assert later.messages <= CHUNKS - earlier.settled
    last = prometheus.scrapes[-1]
    assert last.settled == last.total("qaworker_chunks_total", '"ok"') == CHUNKS
    assert last.total("qaworker_redeliveries_total") > 0
