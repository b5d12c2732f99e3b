"""What a start and a stop leave behind, and say; Redis is real, the owners are not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from qaworker import service
from qaworker.errors import Busy, OwnerError
from qaworker.owners import choosing, expecting
from qaworker.owners.owner import Owned, OwnerName
from qaworker.service import Wish
from qaworker.settings import Settings
from qaworker.status import gathering
from qaworker.store import fleet, heartbeats
from qaworker.store.heartbeats import Beat

HOST = socket.gethostname()


def beat(number: int, owner: str = "none") -> Beat:
    return Beat(
        name=f"qa_worker-{number}@{HOST}",
        number=number,
        host=HOST,
        pid=os.getpid(),
        owner=owner,
        pool="threads",
        started_at=0.0,
        calls_in_flight=0,
        chunks_done=0,
    )


@dataclass
class FakeOwner:
    """An owner whose workers consume as soon as they are started, and end without a word."""

    name: OwnerName
    redis: Redis
    workers: int = 0
    available: bool = True
    log_level: str | None = None

    def is_available(self) -> bool:
        return self.available

    def owned(self) -> list[Owned]:
        return [Owned(number, os.getpid(), "running") for number in range(1, self.workers + 1)]

    def expected(self) -> int:
        return self.workers

    def start(self, workers: int, log_level: str | None) -> None:
        self.available = True
        self.log_level = log_level
        for number in range(1, max(workers, self.workers) + 1):
            if number <= workers:
                heartbeats.beat(self.redis, beat(number, self.name))
            else:
                heartbeats.forget(self.redis, beat(number).name)
        self.workers = workers

    def stop(self, timeout_s: float) -> None:
        assert timeout_s >= 0
        for owned in self.owned():
            heartbeats.forget(self.redis, beat(owned.number).name)
        self.workers = 0
        self.available = self.name == "pid"

    def restart(self, number: int, timeout_s: float) -> None:
        """The new one is as good as the old."""

    def log_lines(self, count: int) -> list[str]:
        assert count > 0
        return []


@pytest.fixture
def values(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_url,
        broker_url="",
        runtime_dir=tmp_path,
        log_dir=tmp_path,
        openai_api_key=SecretStr("test-key"),
    )


@pytest.fixture
def away(values: Settings, tmp_path: Path) -> Settings:
    """The same installation, whose Redis is away."""
    return values.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"})


@pytest.fixture(autouse=True)
def owners(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeOwner]:
    """Neither systemd nor a supervisord runs."""
    fakes = {
        "systemd": FakeOwner("systemd", redis_client, available=False),
        "supervisor": FakeOwner("supervisor", redis_client, available=False),
        "pid": FakeOwner("pid", redis_client),
    }
    monkeypatch.setattr(choosing, "known", lambda _: list(fakes.values()))
    return fakes


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_start_after_a_stop_brings_back_what_ran(
    values: Settings, owners: dict[str, FakeOwner], said: list[str]
) -> None:
    service.start(values, Wish(via="supervisor", workers=2), said.append)
    service.stop(values, None, None, said.append)
    service.start(values, Wish(), said.append)
    assert owners["supervisor"].workers == 2
    assert "as before: 2 under supervisor" in said
    service.stop(values, None, None, said.append)
    service.start(values, Wish(via="pid"), said.append)
    assert owners["pid"].workers == 2


def test_a_stop_that_redis_missed_is_a_stop(
    values: Settings, away: Settings, redis_client: Redis, said: list[str]
) -> None:
    service.start(values, Wish(workers=2), said.append)
    service.stop(away, None, None, said.append)
    assert sum("Redis does not answer" in line for line in said) == 1
    assert any("answers that were not stored are asked for again" in line for line in said)
    assert fleet.expected(redis_client) == {HOST: 2}
    seen = gathering.gather(values)
    assert (seen.state, seen.recorded) == ("stopped", 0)

    expecting.tell_stop(values)
    assert fleet.expected(redis_client) == {HOST: 0}
    service.start(values, Wish(), said.append)
    expecting.tell_stop(values)
    assert fleet.expected(redis_client) == {HOST: 2}


def test_the_units_stop_is_kept_too(values: Settings, away: Settings, redis_client: Redis) -> None:
    fleet.expect(redis_client, HOST, 2)
    with pytest.raises(Exception, match="Redis does not answer"):
        expecting.withdraw(away)
    assert gathering.gather(values).recorded == 0


def test_a_worker_of_nobodys_is_one_line(
    values: Settings, redis_client: Redis, said: list[str]
) -> None:
    heartbeats.beat(redis_client, beat(1))
    service.stop(values, None, None, said.append)
    pid = os.getpid()
    assert said == [f"qa_worker-1@{HOST} (process {pid}) was started by hand: kill -TERM {pid}"]


def test_who_was_stopped_and_what_ends_with_a_restart_is_said(
    values: Settings, said: list[str]
) -> None:
    service.start(values, Wish(workers=4), said.append)
    service.start(values, Wish(workers=3), said.append)
    assert "worker 4 stopped" in said
    service.restart(values, Wish(log_level="debug"), said.append)
    assert "they log at the level debug until the next restart" in said


def test_a_stop_via_an_owner_without_workers_leaves_the_others_expected(
    values: Settings, owners: dict[str, FakeOwner], redis_client: Redis, said: list[str]
) -> None:
    service.start(values, Wish(via="pid", workers=2), said.append)
    with pytest.raises(OwnerError, match="workers run under pid here"):
        service.stop(values, "systemd", None, said.append)
    assert fleet.expected(redis_client) == {HOST: 2}
    owners["systemd"].start(3, None)
    service.stop(values, "systemd", None, said.append)
    assert owners["pid"].workers == 2
    assert fleet.expected(redis_client) == {HOST: 2}


def test_workers_that_run_and_do_not_consume_are_no_success(
    values: Settings, redis_client: Redis, said: list[str]
) -> None:
    service.start(values, Wish(workers=2), said.append)
    heartbeats.forget(redis_client, beat(1).name)
    heartbeats.forget(redis_client, beat(2).name)
    with pytest.raises(OwnerError, match="do not consume: 1, 2"):
        service.start(values, Wish(timeout_s=0), said.append)


def test_a_start_ends_quiet_and_a_stop_does_not(
    values: Settings, redis_client: Redis, said: list[str]
) -> None:
    name = beat(1).name
    acts: list[tuple[Callable[[], None], bool]] = [
        (lambda: service.start(values, Wish(workers=1), said.append), False),
        (lambda: service.start(values, Wish(workers=1), said.append), False),
        (lambda: service.restart(values, Wish(), said.append), False),
        (lambda: service.announce(values), False),
        (lambda: service.stop(values, None, 0.0, said.append), True),
    ]
    for act, is_quiet in acts:
        fleet.make_quiet(redis_client, [name])
        act()
        assert fleet.is_quiet(redis_client, name) == is_quiet


def test_a_start_says_that_who_was_quiet_consumes_soon(
    values: Settings, redis_client: Redis, said: list[str]
) -> None:
    service.start(values, Wish(workers=1), said.append)
    heartbeats.beat(redis_client, beat(1).model_copy(update={"state": "quiet"}))
    service.start(values, Wish(workers=1), said.append)
    assert "was quiet, consumes within 10 s, " in said[-1]


def test_a_stop_by_force_does_not_wait_for_a_restart(values: Settings, said: list[str]) -> None:
    hold = "import sys; from pathlib import Path; from qaworker.owners.lock import locked\n"
    hold += "with locked(Path(sys.argv[1]), 'restart'): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(values.runtime_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as restart:
        assert restart.stdout
        restart.stdout.readline()
        with pytest.raises(Busy):
            service.stop(values, None, None, said.append)
        service.sweep(values, said.append)
        assert restart.wait(10) < 0
