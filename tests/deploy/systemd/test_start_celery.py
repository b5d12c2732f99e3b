"""start_celery.sh on a host with a real systemd: it drives systemctl."""

from __future__ import annotations

import pytest

from tests.acceptance import stops
from tests.acceptance.site import Site
from tests.acceptance.stops import POOLS
from tests.support.commands import Ran
from tests.support.systemd_host import KEY_FILE, UMBRELLA, SystemdHost
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = "/opt/qaworker/bin/start_celery.sh"


class StartCelery:
    """Workers that ``start_celery.sh`` starts and stops."""

    def __init__(self, host: SystemdHost, site: Site, pool: str = "threads") -> None:
        self._host = host
        self._site = site
        self._pool = pool

    def __call__(self, *arguments: str) -> str:
        ran = self.run(*arguments)
        assert ran.code == 0, (ran, self._host.journal(UMBRELLA))
        return ran.out

    def run(self, *arguments: str) -> Ran:
        return self._host.run(SCRIPT, *arguments, check=False, timeout_s=240)

    def start(self, workers: int) -> None:
        self._host.configure(OPENAI_BASE_URL=self._site.api.base_url, **POOLS[self._pool])
        self("start", "-w", str(workers))
        assert len(self.pids()) == workers

    def stop(self, timeout_s: float) -> None:
        self("stop", "--timeout", f"{timeout_s:g}")
        assert not self._host.has_workers()

    def kill(self, number: int) -> None:
        self._host.run("kill", "-KILL", str(self._host.pid(number)))

    def pids(self) -> dict[int, int]:
        """Number -> process id of the workers whose heart beats."""
        living = self._host.living(self._site.redis)
        return {beat.number: self._host.pid(beat.number) for beat in living}

    def levels(self) -> set[str]:
        """The levels at which they log."""
        return {beat.log_level for beat in self._host.living(self._site.redis)}


def test_it_starts_scales_replaces_and_stops_through_systemd(host: SystemdHost, site: Site) -> None:
    site.simulate()
    start_celery = StartCelery(host, site)
    start_celery.start(2)
    two = start_celery.pids()
    assert start_celery.levels() == {"info"}
    # Until then it would ignore a reload.
    assert host.property("ActiveState") == "active"
    assert "running already" in start_celery("start")
    refused = start_celery.run("start", "--via", "pid")
    assert refused.code == 1
    assert "systemd" in refused.complaint

    start_celery("start", "-w", "3")
    assert start_celery.pids().items() > two.items()
    start_celery("start", "-w", "1")
    assert start_celery.pids() == {1: two[1]}
    assert host.states() == ["active"]

    start_celery("restart", "-w", "2", "-l", "debug")
    assert set(start_celery.pids()) == {1, 2}
    assert two[1] not in start_celery.pids().values()
    assert start_celery.levels() == {"debug"}
    assert len(start_celery("status").splitlines()) > 10

    start_celery("stop")
    assert host.states() == []
    assert host.property("ActiveState") == "inactive"
    assert start_celery.run("status").code == 3
    assert "no worker runs" in start_celery("stop")
    # What was installed last is what is started.
    start_celery("start")
    assert set(start_celery.pids()) == {1, 2}
    said = start_celery("stop", "--force")
    assert "-n 1" in said
    assert host.states() == []


def test_calls_that_take_too_long_go_back_to_the_queue(host: SystemdHost, site: Site) -> None:
    stops.stop_out_of_time(site, StartCelery(host, site))


def test_a_wrong_setting_is_said_with_the_workers_last_line(host: SystemdHost, site: Site) -> None:
    site.simulate()
    start_celery = StartCelery(host, site)
    host.configure()
    refused = start_celery.run("start", "-w", "1")
    assert refused.code == 78
    assert "OPENAI_API_KEY is not set" in refused.complaint
    why = "worker 1 ended with 78: qaworker: OPENAI_API_KEY is not set"
    wait_until(lambda: why in host.journal(UMBRELLA), 20, "the umbrella's own line")


def test_a_missing_file_of_the_key_is_said_before_anything_is_started(
    host: SystemdHost, site: Site
) -> None:
    site.simulate()
    host.run("rm", KEY_FILE)
    refused = StartCelery(host, site).run("start")
    assert refused.code == 78
    assert f"{KEY_FILE} is missing" in refused.complaint
    assert host.states() == []


def test_without_the_rights_it_says_so_in_one_line(host: SystemdHost, site: Site) -> None:
    site.simulate()
    StartCelery(host, site).start(1)
    for arguments in (["start", "-w", "2"], ["restart"], ["stop"]):
        refused = host.run("runuser", "-u", "qaworker", "--", SCRIPT, *arguments, check=False)
        assert refused.code == 77, refused
        assert refused.complaint
    assert host.states() == ["active"]
