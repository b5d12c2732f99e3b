"""supervisord as the owner: what an operator does to the workers, and what happens to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qaworker import keys
from qaworker.owners.supervisord import Supervisord
from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat
from tests.acceptance.site import Site, check_complete
from tests.deploy.running import running_in
from tests.support.processes import child_environment
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

CHUNKS = 72
WAIT_S = 60.0
STOP_S = 60.0
FEW_CALLS = {"QAWORKER_CALLS_IN_FLIGHT": "12", "QAWORKER_THREADS": "2"}
OUTAGE_S = 30.0
# A worker is silent after 60 s, which the listener sees within 5 s; then it asks, and then it kills.
SILENCE_S = 110.0
Own = Callable[..., "Owner"]


class Owner(Supervisord):
    """supervisord with its directories under one directory, and the workers' own view."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.logs = directory / "log"
        super().__init__(directory / "run", self.logs, 330)
        self._site = site

    def pids(self) -> dict[int, int]:
        """Number -> process id of the workers that run."""
        return {one.number: one.pid for one in self.owned() if one.state == "running"}

    def beats(self) -> dict[int, Beat]:
        """Number -> last beat of the living ones that supervisord runs."""
        living = heartbeats.living(self._site.redis)
        pids = self.pids()
        return {beat.number: beat for beat in living if beat.pid == pids.get(beat.number)}

    def wait_consuming(self, workers: int) -> dict[int, int]:
        """Wait until exactly so many run and beat; their process ids."""

        def consume() -> bool:
            return set(self.beats()) == set(self.pids()) == set(range(1, workers + 1))

        wait_until(consume, WAIT_S, f"{workers} workers")
        return self.pids()

    def log(self, name: str) -> str:
        """A log in the log directory."""
        return (self.logs / f"{name}.log").read_text(encoding="utf-8")


@pytest.fixture
def own(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    """Makes the owner of a site's workers: ``own(site)``; in the end it and they are stopped."""
    owners: list[Owner] = []

    def make(site: Site, **env: str) -> Owner:
        environment = child_environment(
            short_path,
            REDIS_URL=site.redis_url,
            OPENAI_BASE_URL=site.api.base_url,
            OPENAI_API_KEY=site.api_key,
            **FEW_CALLS,
            **env,
        )
        for name in os.environ:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        owners.append(Owner(short_path, site))
        return owners[-1]

    monkeypatch.chdir(short_path)
    try:
        yield make
    finally:
        for owner in owners:
            owner.stop(10)
        for pid in running_in(short_path) - {os.getpid()}:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_stop_under_load_loses_nothing_and_leaves_nothing(
    site: Site, own: Own, short_path: Path
) -> None:
    site.simulate("--latency", "1")
    owner = own(site)
    owner.start(2, None)
    owner.wait_consuming(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    owner.stop(STOP_S)
    assert running_in(short_path) == {os.getpid()}
    assert not list((short_path / "run").iterdir())
    assert owner.expected() == 0
    stats = site.api.stats()
    assert stats["abandoned"] == 0
    assert stats["calls"] < CHUNKS
    assert site.redis.hlen(f"{keys.PREFIX}unacked") == 0

    owner.start(2, None)
    assert client.wait_exit(WAIT_S) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", CHUNKS)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_killed_worker_is_started_again_and_another_does_its_chunks(site: Site, own: Own) -> None:
    site.simulate("--latency", "2")
    owner = own(site)
    owner.start(2, None)
    pids = owner.wait_consuming(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_stored(CHUNKS // 4)
    os.kill(pids[1], signal.SIGKILL)
    assert client.wait_exit(60) == 0, client.output
    after = owner.wait_consuming(2)
    assert after[1] != pids[1]
    assert after[2] == pids[2]
    assert site.api.stats()["max_calls_per_chunk"] <= 2
    check_complete(site, "run", CHUNKS)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_frozen_worker_is_replaced(site: Site, own: Own) -> None:
    site.simulate("--latency", "1")
    owner = own(site)
    owner.start(2, None)
    pids = owner.wait_consuming(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_stored(CHUNKS // 4)
    os.kill(pids[1], signal.SIGSTOP)
    assert client.wait_exit(2 * WAIT_S) == 0, client.output
    check_complete(site, "run", CHUNKS)
    wait_until(lambda: owner.pids().get(1) not in {None, pids[1]}, SILENCE_S, "its replacement")
    assert owner.wait_consuming(2)[2] == pids[2]
    assert "silent_worker_killed" in owner.log("celery_qa_watch")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nobody_is_replaced_because_redis_is_away(
    open_site: Callable[[str], Site], start_redis: Callable[..., RedisServer], own: Own
) -> None:
    server = start_redis(appendonly=True)
    site = open_site(server.url)
    site.simulate("--latency", "1")
    owner = own(site)
    owner.start(2, None)
    pids = owner.wait_consuming(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    server.stop()
    away_since = site.api.stats()["uptime_s"]
    wait_until(
        lambda: site.api.stats()["uptime_s"] - away_since > OUTAGE_S, 2 * OUTAGE_S, "the outage"
    )
    server.start()
    assert client.wait_exit(2 * WAIT_S) == 0, client.output
    assert owner.wait_consuming(2) == pids
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", CHUNKS)
    assert owner.log("supervisord").count("spawned: 'qa_worker") == 2


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_scaling_leaves_the_others_at_work(site: Site, own: Own) -> None:
    site.simulate("--latency", "1")
    owner = own(site)
    owner.start(2, None)
    two = owner.wait_consuming(2)
    client = site.generate(site.dataset(2 * CHUNKS), "run", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    owner.start(4, "debug")
    four = owner.wait_consuming(4)
    assert {number: four[number] for number in two} == two
    levels = {number: beat.log_level for number, beat in owner.beats().items()}
    assert levels == {1: "info", 2: "info", 3: "debug", 4: "debug"}
    owner.start(1, None)
    assert owner.pids() == {1: two[1]}
    assert owner.expected() == 1
    assert client.wait_exit(2 * WAIT_S) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", 2 * CHUNKS)


@pytest.mark.slow
def test_a_restart_replaces_one(site: Site, own: Own) -> None:
    site.simulate()
    owner = own(site)
    owner.start(2, None)
    before = owner.wait_consuming(2)
    owner.start(2, "warning")
    assert owner.pids() == before
    owner.restart(2, STOP_S)
    after = owner.wait_consuming(2)
    assert after[1] == before[1]
    assert after[2] != before[2]
    assert {number: beat.log_level for number, beat in owner.beats().items()} == {
        1: "info",
        2: "warning",
    }


@pytest.mark.slow
def test_what_a_stop_finds_frozen_it_ends_by_force(site: Site, own: Own, short_path: Path) -> None:
    site.simulate()
    owner = own(site, QAWORKER_POOL="prefork", QAWORKER_PREFORK_CHILDREN="2")
    owner.start(1, None)
    pid = owner.wait_consuming(1)[1]
    os.kill(pid, signal.SIGSTOP)
    owner.stop(0.5)
    assert running_in(short_path) == {os.getpid()}


@pytest.mark.slow
def test_a_worker_that_could_not_be_started_comes_back_when_it_can(site: Site, own: Own) -> None:
    site.simulate()
    owner = own(site)
    owner.start(1, None)
    pid = owner.wait_consuming(1)[1]
    away = owner.logs.rename(owner.logs.with_name("away"))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: owner.owned()[0].state == "failed", WAIT_S, "supervisord to give up")
    assert owner.expected() == 1
    away.rename(owner.logs)
    assert owner.wait_consuming(1)[1] != pid
