"""Stopping and killing workers, for every owner that needs no container, and every pool."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qaworker.owners.owner import OwnerName
from tests.acceptance import stops
from tests.acceptance.operator import Operator
from tests.acceptance.site import Site
from tests.acceptance.stops import CHUNKS, POOLS
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OWNERS: tuple[OwnerName, ...] = ("pid", "supervisor")
SCENARIOS = {
    "stop_mid_flight": stops.stop_mid_flight,
    "stop_out_of_time": stops.stop_out_of_time,
}
# A worker of prefork with, or without, what protects it from a signal to its whole group.
UNDER_TEST = """
from qaworker.app import app
from qaworker.cli.main import main
app.conf.update(task_acks_late={0}, task_reject_on_worker_lost={0})
raise SystemExit(main(["worker"]))
"""


class Workers:
    """Workers that start_celery.sh starts under an owner; made when the API's address is known."""

    def __init__(self, directory: Path, site: Site, via: OwnerName, pool: str) -> None:
        self._make: Callable[[], Operator] = lambda: Operator(directory, site, **POOLS[pool])
        self._via = via
        self._operator: Operator | None = None

    @property
    def operator(self) -> Operator:
        self._operator = self._operator or self._make()
        return self._operator

    def start(self, workers: int) -> None:
        self.operator.do("start", "-w", str(workers), "--via", self._via)
        assert len(self.operator.pids()) == workers

    def stop(self, timeout_s: float) -> None:
        self.operator.do("stop", "--timeout", f"{timeout_s:g}")
        assert not self.operator.processes()

    def kill(self, number: int) -> None:
        self.operator.kill(number)


@pytest.fixture
def own(site: Site, short_path: Path) -> Iterator[Callable[[OwnerName, str], Workers]]:
    """Makes the workers of an owner and a pool; in the end none is left."""
    made: list[Workers] = []

    def make(via: OwnerName, pool: str) -> Workers:
        made.append(Workers(short_path, site, via, pool))
        return made[-1]

    yield make
    for workers in made:
        workers.operator.end()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("via", OWNERS)
def test_a_stop_loses_nothing(
    site: Site, own: Callable[..., Workers], via: OwnerName, pool: str, scenario: str
) -> None:
    SCENARIOS[scenario](site, own(via, pool))


@pytest.mark.parametrize(("via", "pool"), [("pid", "threads"), ("supervisor", "prefork")])
def test_a_killed_worker_loses_nothing(
    site: Site, own: Callable[..., Workers], via: OwnerName, pool: str
) -> None:
    stops.kill_main(site, own(via, pool))


@pytest.mark.parametrize("is_protected", [True, False])
def test_the_check_of_a_stop_finds_what_late_acknowledgement_prevents(
    site: Site, is_protected: bool
) -> None:
    """TERM to the whole process group, which no owner of ours sends, ends children in mid-task."""
    site.simulate("--latency", "3")
    worker = site.run([sys.executable, "-c", UNDER_TEST.format(is_protected)], **POOLS["prefork"])
    site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_in_flight(2)
    os.killpg(worker.pid, signal.SIGTERM)
    wait_until(lambda: worker.exit_code is not None, 30, "the worker to end")
    if is_protected:
        stops.check_all_back(site, "run")
    else:
        with pytest.raises(AssertionError, match="in a queue"):
            stops.check_all_back(site, "run")
