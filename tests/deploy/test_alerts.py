"""Every alert but one, caused for real, is told to a real Alertmanager, and ends when the cause does.

A minute of the shipped rules is a second here. QAWorkerCrashLoop is in systemd/test_crash_loop.py.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from qaworker.store import fleet
from tests.acceptance.site import Site, events
from tests.support.processes import Process
from tests.support.prometheus import RULES, Alertmanager, Prometheus, program, shortened
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNLIMITED = {"QAWORKER_RPM": "0", "QAWORKER_TPM": "0"}
# A worker beats every 5 s.
SILENT_S = 10
START_S = 30.0
# The longest of the shortened rules, and a slow machine.
FIRES_S = 60.0
ENDS_S = 60.0


class Watch:
    """An installation, its exporter, and who watches it."""

    def __init__(self, site: Site, stack: contextlib.ExitStack, **thresholds: float) -> None:
        self.site = site
        self._exporter = self._serve("127.0.0.1:0")
        self.address = wait_until(self._listens, START_S, "the exporter to listen")
        self.alertmanager = stack.enter_context(Alertmanager(self._directory("alertmanager")))
        self.prometheus = stack.enter_context(
            Prometheus(
                self._directory("prometheus"),
                {"qaworker": self.address},
                rules=shortened(
                    RULES.read_text("utf-8"), worker_silent_seconds=SILENT_S, **thresholds
                ),
                alertmanager=self.alertmanager,
            )
        )
        self.prometheus.wait_for("qaworker_broker_up == 1", START_S)

    def metrics(self) -> bytes:
        """What the exporter says."""
        with urlopen(f"http://{self.address}/metrics", timeout=START_S) as answer:
            text: bytes = answer.read()
            return text

    def kill_exporter(self) -> None:
        """End it as a crash does."""
        self._exporter.end()

    def start_exporter(self) -> None:
        """Start it where it was."""
        self._exporter = self._serve(self.address)

    def wait_firing(self, *names: str) -> None:
        """Wait until Alertmanager was told of all of these, in words that can be read."""
        try:
            wait_until(
                lambda: set(names) <= self.alertmanager.firing(), FIRES_S, f"all of {names} to fire"
            )
        except AssertionError as error:
            error.add_note(f"{self.prometheus.alerts()}\n{self.metrics().decode()}")
            raise
        for alert in self.alertmanager.alerts():
            for text in alert["annotations"].values():
                assert "<no value>" not in text, alert
                assert "<error" not in text, alert

    def wait_ended(self, *names: str) -> None:
        """Wait until Alertmanager was told that none of these fires any more."""
        wait_until(
            lambda: not set(names) & self.alertmanager.firing(), ENDS_S, f"the end of {names}"
        )

    def _directory(self, name: str) -> Path:
        path = self.site.directory / name
        path.mkdir()
        return path

    def _serve(self, address: str) -> Process:
        return self.site.command("exporter", "--listen", address, QAWORKER_LOG_FORMAT="json")

    def _listens(self) -> str:
        self._exporter.check_alive()
        said = [event for event in events(self._exporter) if event["event"] == "exporter_serves"]
        return f"127.0.0.1:{said[0]['port']}" if said else ""


@pytest.fixture
def watch() -> Iterator[Callable[..., Watch]]:
    """Starts an installation that is watched: ``watch(site, worker_memory_bytes=1e6)``."""
    with contextlib.ExitStack() as stack:
        yield lambda site, **thresholds: Watch(site, stack, **thresholds)


def work(site: Site, chunks: int, name: str) -> Process:
    """Queue chunks, sixteen a message; the command has ended when the queue has them."""
    submit = site.command(
        *("submit", "--yes", "--input-file", site.dataset(chunks)),
        *("--output", site.directory / name),
        **UNLIMITED,
    )
    site.finish(submit)
    return submit


def test_work_that_stands_still(
    watch: Callable[..., Watch],
    start_redis: Callable[..., RedisServer],
    open_site: Callable[[str], Site],
) -> None:
    """A worker freezes with work in its hands and more in the queue; is killed; is replaced."""
    redis = start_redis(appendonly=True)
    site = open_site(redis.url)
    site.simulate("--latency", "100")
    fleet.expect(site.redis, socket.gethostname(), 1)
    frozen = site.worker(1, **UNLIMITED, QAWORKER_THREADS="40", QAWORKER_CALLS_IN_FLIGHT="8")
    watched = watch(site, spend_dollars_per_hour=1000)
    work(site, (40 + 120) * 16, "run")
    site.wait_in_flight(8)
    frozen.signal(signal.SIGSTOP)
    flow = (
        "QAWorkerNoWorkers",
        "QAWorkerWorkerMissing",
        "QAWorkerQueueStalled",
        "QAWorkerQueueLong",
    )
    watched.wait_firing(*flow)
    assert watched.alertmanager.firing() == set(flow)
    assert watched.alertmanager.untold() == {*flow} - {"QAWorkerNoWorkers"}

    frozen.kill()
    site.api.set_latency(0.3)
    # It takes one message at a time, and among them those that the other one had.
    slow = site.worker(1, **UNLIMITED, QAWORKER_THREADS="1", QAWORKER_CALLS_IN_FLIGHT="8")
    watched.wait_ended("QAWorkerNoWorkers", "QAWorkerWorkerMissing", "QAWorkerQueueStalled")
    watched.wait_firing("QAWorkerRedelivery")
    site.worker(2, **UNLIMITED)
    watched.wait_ended("QAWorkerQueueLong", "QAWorkerRedelivery")
    assert watched.alertmanager.firing() == set()
    slow.check_alive()

    redis.stop()
    watched.wait_firing("QAWorkerBrokerDown")
    assert watched.alertmanager.firing() == {"QAWorkerBrokerDown"}
    redis.start()
    watched.wait_ended("QAWorkerBrokerDown")

    watched.kill_exporter()
    watched.wait_firing("QAWorkerExporterDown")
    watched.start_exporter()
    watched.wait_ended("QAWorkerExporterDown")
    assert watched.alertmanager.firing() == set()


def test_work_that_fails_costs_or_is_held(watch: Callable[..., Watch], site: Site) -> None:
    """The account ends and is there again; then the API refuses much of what it is asked."""
    site.simulate("--latency", "0.1", "--fault", "quota=1")
    site.finish(site.command("hold", "set", "model:forgotten", "maintenance"))
    worker = site.worker(1, **UNLIMITED, QAWORKER_CALLS_IN_FLIGHT="8")
    watched = watch(site, spend_dollars_per_hour=0.01, worker_memory_bytes=50e6)
    work(site, 2000, "run")
    watched.wait_firing("QAWorkerHeld", "QAWorkerMemory")
    assert watched.alertmanager.firing(severity="page") == {"QAWorkerHeld"}

    site.api.set_faults(refusal=0.3, **{"429": 0.2})
    watched.wait_firing(
        *("QAWorkerErrorBudgetFast", "QAWorkerErrorBudgetSlow", "QAWorkerDeadLetters"),
        *("QAWorkerRateLimited", "QAWorkerSpendRate"),
    )
    assert "QAWorkerHeld" not in watched.alertmanager.firing(reason="halted")
    wait_until(
        lambda: "QAWorkerSpendRate" in watched.alertmanager.firing(severity="page"),
        FIRES_S,
        "ten times the rate to be told",
    )
    # A minute after it was set.
    wait_until(
        lambda: watched.alertmanager.firing(reason="operator_model"),
        FIRES_S,
        "the forgotten hold to be told",
    )
    check_metrics(watched)

    site.api.set_faults()
    watched.wait_ended("QAWorkerErrorBudgetFast", "QAWorkerErrorBudgetSlow", "QAWorkerRateLimited")
    site.finish(site.command("hold", "release", "model:forgotten"))
    site.finish(site.command("dead", "discard", "--yes"))
    worker.terminate()
    assert worker.wait_exit(START_S) == 0
    watched.wait_ended("QAWorkerHeld", "QAWorkerDeadLetters", "QAWorkerMemory", "QAWorkerSpendRate")


def check_metrics(watched: Watch) -> None:
    """promtool has no complaint, and whatever the rules ask for is there."""
    metrics = watched.metrics()
    done = subprocess.run(
        [program("promtool"), "check", "metrics"], input=metrics, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stdout + done.stderr
    there = set(re.findall(r"(?m)^(qaworker_\w+)", metrics.decode()))
    rules = re.sub(r"(?m)#.*$|^.*(_url|description|summary): .*$", "", RULES.read_text("utf-8"))
    assert set(re.findall(r"\bqaworker_(?!site\b)\w+", rules)) <= there
    assert watched.prometheus.rule_errors() == []
