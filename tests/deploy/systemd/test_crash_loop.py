"""QAWorkerCrashLoop, as systemd's own count of restarts reaches Alertmanager through node_exporter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.prometheus import RULES, SHIPPED, Alertmanager, Prometheus, program, shortened
from tests.support.systemd_host import SystemdHost, unit
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DROP_IN = f"/etc/systemd/system/{unit(1)}.d/crash.conf"
# It ends before it is ready, as one does that a broken library kills; not every five seconds, though.
CRASHES = "[Service]\nExecStart=\nExecStart=/bin/false\nRestartSec=500ms\n"
START_S = 30.0
FIRES_S = 60.0


@pytest.fixture
def node_exporter(host: SystemdHost, tmp_path: Path) -> Iterator[str]:
    """The address of a node_exporter on the host, with the options that scrape.yml names."""
    options = re.findall(r"--collector\S+", (SHIPPED / "scrape.yml").read_text("utf-8"))
    command = (program("prometheus-node-exporter"), "--web.listen-address=127.0.0.1:0", *options)
    with host.begin(tmp_path / "node_exporter", *command) as process:

        def address() -> str:
            process.check_alive()
            found = re.search(r'msg="Listening on" address=(\S+)', process.output)
            return found[1] if found else ""

        yield wait_until(address, START_S, "node_exporter to listen")


def test_a_worker_that_dies_again_and_again_is_told(
    host: SystemdHost, node_exporter: str, tmp_path: Path
) -> None:
    directories = {name: tmp_path / name for name in ("alertmanager", "prometheus")}
    for directory in directories.values():
        directory.mkdir()
    rules = shortened(RULES.read_text("utf-8"))
    with (
        Alertmanager(directories["alertmanager"]) as alertmanager,
        Prometheus(
            directories["prometheus"],
            {"node": node_exporter},
            rules=rules,
            alertmanager=alertmanager,
        ) as prometheus,
    ):

        def told() -> set[str]:
            return {
                alert["labels"]["name"]
                for alert in alertmanager.alerts()
                if alert["labels"]["alertname"] == "QAWorkerCrashLoop"
            }

        host.run("mkdir", "-p", str(Path(DROP_IN).parent))
        host.write(DROP_IN, CRASHES)
        host.systemctl("daemon-reload")
        try:
            host.systemctl("start", "--no-block", unit(1))
            wait_until(told, FIRES_S, "the alert")
            assert told() == {unit(1)}
        finally:
            host.systemctl("stop", unit(1))
            host.run("rm", DROP_IN)
            host.systemctl("daemon-reload")
        wait_until(lambda: not told(), FIRES_S, "its end")
        assert prometheus.rule_errors() == []
