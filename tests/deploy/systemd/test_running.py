"""systemctl and the units, under load, with real signals: what an operator does, and what happens to him."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.request import urlopen

import pytest

from qaworker.store import fleet
from tests.acceptance import stops
from tests.acceptance.site import Site, check_complete
from tests.acceptance.stops import CHUNKS, POOLS
from tests.support.processes import Process
from tests.support.systemd_host import (
    EXPORTER,
    INSTANCES,
    KEY_FILE,
    STOP_S,
    UMBRELLA,
    SystemdHost,
    unit,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = 3
# WatchdogSec= and TimeoutAbortSec= of the unit, and a slow machine.
FROZEN_S = 60.0
# More than WatchdogSec=, so that a worker is aborted unless it goes on saying that it is well.
REDIS_AWAY_S = 35.0
# Longer than the units' RestartSec=, and the ten seconds a worker waits for Redis.
RESTARTED_S = 60.0


def begin(
    host: SystemdHost, site: Site, *, latency_s: float = 1.0, chunks: int = CHUNKS
) -> Process:
    """Start the workers and a run, and wait until it is under way."""
    site.simulate("--latency", f"{latency_s:g}")
    host.configure(OPENAI_BASE_URL=site.api.base_url, **POOLS["threads"])
    host.systemctl("start", UMBRELLA)
    client = site.generate(site.dataset(chunks), "run", "--use-celery")
    site.wait_in_flight(WORKERS)
    return client


def check_finished(site: Site, client: Process, chunks: int = CHUNKS) -> None:
    """The run ends with every chunk answered, and nobody was called twice."""
    assert client.wait_exit(stops.FINISH_S) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", chunks)


def test_started_workers_consume_and_every_status_agrees(host: SystemdHost, site: Site) -> None:
    client = begin(host, site)
    # `start` has returned: all consume already.
    assert host.states() == ["active"] * WORKERS
    assert [beat.state for beat in host.living(site.redis)] == ["consuming"] * WORKERS
    pids = {host.pid(number) for number in range(1, WORKERS + 1)}
    for command in ("qaworker", "/opt/qaworker/bin/start_celery.sh"):
        said = host.run(command, "status", "--json", check=False)
        assert said.code == 0, said
        status = json.loads(said.out)
        assert (status["owner"], status["expected"]) == ("systemd", WORKERS)
        assert {worker["pid"] for worker in status["workers"]} == pids
    check_finished(site, client)

    host.systemctl("stop", UMBRELLA)
    assert host.states() == []
    assert host.systemctl("is-active", UMBRELLA, check=False).code == 3
    assert host.run("qaworker", "status", check=False).code == 3


def test_metrics_outlive_the_workers(host: SystemdHost, site: Site) -> None:
    """They start with them; after a stop they say that none is to run, and none does."""
    site.simulate()
    host.configure(OPENAI_BASE_URL=site.api.base_url)
    host.systemctl("start", UMBRELLA)
    up = metrics(host)
    assert up["qaworker_workers_expected"] == WORKERS
    assert len([name for name in up if name.startswith("qaworker_worker_memory")]) == WORKERS
    host.systemctl("stop", UMBRELLA)
    down = metrics(host)
    assert down["qaworker_broker_up"] == 1
    assert down["qaworker_workers_expected"] == 0
    assert not [name for name in down if name.startswith("qaworker_worker_memory")]


def metrics(host: SystemdHost) -> dict[str, float]:
    """What the host's exporter shows, by name with labels."""
    wait_until(lambda: host.property("ActiveState", EXPORTER) == "active", STOP_S, "the exporter")
    lines = [line for line in host.journal(EXPORTER).splitlines() if "exporter_serves" in line]
    url = f"http://127.0.0.1:{json.loads(lines[-1])['port']}/metrics"
    with urlopen(url, timeout=STOP_S) as answer:
        text = answer.read().decode()
    series = (line.rpartition(" ") for line in text.splitlines() if line[0] != "#")
    return {name: float(value) for name, _, value in series}


class Systemctl:
    """Workers that ``systemctl`` starts and stops."""

    def __init__(self, host: SystemdHost, site: Site, pool: str) -> None:
        self._host = host
        self._site = site
        self._pool = pool

    def start(self, workers: int) -> None:
        self._host.configure(OPENAI_BASE_URL=self._site.api.base_url, **POOLS[self._pool])
        self._host.set_workers(workers)
        self._host.systemctl("start", UMBRELLA)

    def stop(self, timeout_s: float) -> None:  # noqa: ARG002, the units have their own
        self._host.systemctl("stop", UMBRELLA)
        assert not self._host.has_workers()

    def kill(self, number: int) -> None:
        self._host.run("kill", "-KILL", str(self._host.pid(number)))


@pytest.mark.parametrize("pool", POOLS)
def test_a_stop_loses_nothing(host: SystemdHost, site: Site, pool: str) -> None:
    """`stop` returns when all have ended, and they finish what they were at."""
    stops.stop_mid_flight(site, Systemctl(host, site, pool))


def test_a_killed_worker_is_started_again_and_loses_nothing(host: SystemdHost, site: Site) -> None:
    stops.kill_main(site, Systemctl(host, site, "threads"))
    assert host.restarts(1) == 1
    assert host.restarts(2) == 0
    assert host.states() == ["active"] * 2


def test_a_frozen_worker_is_replaced(host: SystemdHost, site: Site) -> None:
    begin(host, site, latency_s=2)
    frozen = host.pid(1)
    host.run("kill", "-STOP", str(frozen))
    wait_until(lambda: host.pid(1) not in {0, frozen}, FROZEN_S, "the watchdog")
    assert "Watchdog timeout" in host.journal(unit(1))
    # Where it hung.
    assert "most recent call first" in host.journal(unit(1))
    assert [host.restarts(number) for number in range(1, WORKERS + 1)] == [1, 0, 0]


def test_no_worker_is_restarted_while_redis_is_away(host: SystemdHost, site: Site) -> None:
    client = begin(host, site, latency_s=2)
    before = [host.pid(number) for number in range(1, WORKERS + 1)]
    host.redis_server.kill()
    try:
        with pytest.raises(AssertionError, match="in vain"):
            wait_until(lambda: host.states() != ["active"] * WORKERS, REDIS_AWAY_S, "a restart")
    finally:
        host.redis_server.start()
    assert client.wait_exit(120) == 0, client.output
    check_complete(site, "run", CHUNKS)
    assert [host.pid(number) for number in range(1, WORKERS + 1)] == before


def test_a_reload_replaces_one_after_the_other(
    host: SystemdHost, site: Site, tmp_path: Path
) -> None:
    # Half a minute of calls.
    chunks = 600
    client = begin(host, site, latency_s=2, chunks=chunks)
    before = {host.pid(number) for number in range(1, WORKERS + 1)}
    reload = host.begin(tmp_path / "reload", "systemctl", "reload", UMBRELLA)
    fewest = WORKERS
    # A unit is active from the moment its worker consumes until it is told to end.
    while reload.exit_code is None:
        fewest = min(fewest, host.states().count("active"))
    assert reload.wait_exit(0) == 0, host.journal(UMBRELLA)
    assert site.api.stats()["calls"] < chunks
    after = {host.pid(number) for number in range(1, WORKERS + 1)}
    assert not before & after
    assert fewest == WORKERS - 1
    check_finished(site, client, chunks)


def test_a_reboot_ends_workers_in_order_and_starts_them_again(
    host: SystemdHost, site: Site
) -> None:
    client = begin(host, site, latency_s=2)
    host.systemctl("enable", UMBRELLA)
    try:
        host.reboot()
        host.wait_active(RESTARTED_S)
        check_finished(site, client)
        assert len(host.living(site.redis)) == WORKERS
    finally:
        host.systemctl("disable", UMBRELLA)


def test_a_wrong_setting_is_not_tried_again(host: SystemdHost) -> None:
    """Without a key for OpenAI's own address workers exit 78, once."""
    assert host.systemctl("start", UMBRELLA, check=False).code == 1
    # systemd decides that at once: one it is going to start again is activating.
    assert host.states() == ["failed"] * WORKERS
    assert "OPENAI_API_KEY is not set" in host.journal(unit(1))
    # What was corrected starts without further ado.
    host.write(KEY_FILE, "sk-of-this-host\n")
    host.systemctl("start", UMBRELLA)
    assert host.states() == ["active"] * WORKERS


def test_a_reload_into_a_wrong_setting_costs_one_worker(host: SystemdHost) -> None:
    host.write(KEY_FILE, "sk-of-this-host\n")
    host.systemctl("start", UMBRELLA)
    host.write(KEY_FILE, "")
    assert host.systemctl("reload", UMBRELLA, check=False).code == 1
    assert sorted(host.states()) == ["active"] * (WORKERS - 1) + ["failed"]
    assert "OPENAI_API_KEY is not set" in host.journal(UMBRELLA)
    host.write(KEY_FILE, "sk-of-this-host\n")
    host.systemctl("start", UMBRELLA)
    wait_until(lambda: host.states() == ["active"] * WORKERS, RESTARTED_S, "the worker")


def test_a_stop_after_a_start_that_failed_leaves_nothing(host: SystemdHost, site: Site) -> None:
    """One of two workers has a wrong setting, and the umbrella has failed with it."""
    site.simulate("--latency", "3")
    host.set_workers(2)
    drop_in = "/etc/systemd/system/qa-celery@2.service.d/wrong.conf"
    host.run("mkdir", "-p", str(Path(drop_in).parent))
    host.write(drop_in, "[Service]\nEnvironment=QAWORKER_POOL=eventlet\n")
    try:
        host.systemctl("daemon-reload")
        host.configure(OPENAI_BASE_URL=site.api.base_url)
        assert host.systemctl("start", UMBRELLA, check=False).code == 1
        assert sorted(host.states()) == ["active", "failed"]
        client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
        site.wait_in_flight(1)
        host.run("/opt/qaworker/bin/start_celery.sh", "stop", timeout_s=STOP_S)
        assert not host.has_workers()
        assert host.property("ActiveState") == "inactive"
        assert set(fleet.expected(site.redis).values()) == {0}
        assert site.api.stats()["abandoned"] == 0
        client.end()
    finally:
        host.run("rm", drop_in)
        host.systemctl("daemon-reload")


def test_redis_away_at_the_start_is_waited_for(host: SystemdHost, site: Site) -> None:
    """`start` says that it failed, and everything is well once Redis is there."""
    site.simulate()
    host.configure(OPENAI_BASE_URL=site.api.base_url)
    host.redis_server.kill()
    try:
        assert host.systemctl("start", UMBRELLA, check=False).code == 1
        assert host.states() == ["activating"] * WORKERS
        assert "Redis does not answer" in host.journal(UMBRELLA)
        # An hour of this must not use up any limit.
        assert host.property("StartLimitIntervalUSec", unit(1)) == "0"
    finally:
        host.redis_server.start()
    host.wait_active(RESTARTED_S)
    assert host.states() == ["active"] * WORKERS


def test_nobody_sees_the_key(host: SystemdHost) -> None:
    """It reaches the workers, which would not start without, and no environment and no log."""
    key = "sk-seen-by-nobody"
    host.write(KEY_FILE, f"{key}\n")
    host.systemctl("start", UMBRELLA)
    assert host.states() == ["active"] * WORKERS
    everything = ("bash", "-c", "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline")
    for command in (everything, ("journalctl", "--no-pager"), ("systemctl", "show", INSTANCES)):
        said = host.run(*command, check=False).out
        assert "qaworker" in said
        assert key not in said
