"""What the status makes of owners and heartbeats; Redis is real, the owner is not."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.errors import NotAllowed
from qaworker.limits.limiter import Limiter
from qaworker.limits.rates import rate_table
from qaworker.owners.owner import Owned, OwnerName
from qaworker.settings import Settings
from qaworker.status import gathering
from qaworker.status.picture import Status
from qaworker.status.spans import spoken
from qaworker.store import fleet, heartbeats, holds
from qaworker.store.connections import connect_async
from qaworker.store.dead_letters import DeadLetter, put
from qaworker.store.heartbeats import FRESH_S, Beat
from qaworker.store.holds import account_scope, model_scope, run_scope

HOST = socket.gethostname()
ACCOUNT = "1a2b3c4d"
# No process has it: Linux counts to less.
NO_PID = 2**30


@dataclass
class FakeOwner:
    """Says what it is told to."""

    processes: Sequence[Owned] = ()
    wanted: int = 0
    name: OwnerName = "systemd"

    def is_available(self) -> bool:
        return True

    def owned(self) -> list[Owned]:
        return list(self.processes)

    def expected(self) -> int:
        return self.wanted

    def log_lines(self, count: int) -> list[str]:
        return [f"line {n}" for n in range(count)]

    def start(self, workers: int, log_level: str | None) -> None:
        raise NotImplementedError

    def stop(self, timeout_s: float) -> None:
        raise NotImplementedError

    def restart(self, number: int, timeout_s: float) -> None:
        raise NotImplementedError

    def stop_timeout_s(self) -> float | None:
        raise NotImplementedError


def beat(number: int, *, host: str = HOST, pid: int = NO_PID, **more: Any) -> Beat:
    return Beat(
        name=f"qa_worker-{number}@{host}",
        number=number,
        host=host,
        pid=pid,
        pool=more.pop("pool", "threads"),
        started_at=0.0,
        calls_in_flight=more.pop("calls_in_flight", 0),
        chunks_done=more.pop("chunks_done", 0),
        **more,
    )


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, broker_url="")


def gathered(settings: Settings, owner: FakeOwner | None = None) -> Status:
    return gathering.gather(settings, lambda _settings: owner)


def test_nothing_at_all_is_stopped(settings: Settings) -> None:
    seen = gathered(settings)
    assert (seen.state, seen.expected, list(seen.workers)) == ("stopped", 0, [])


def test_all_workers_that_consume_are_running(settings: Settings, redis_client: Redis) -> None:
    for number in (1, 2):
        heartbeats.beat(redis_client, beat(number, pid=100 + number, tasks=3, calls_in_flight=40))
    seen = gathered(settings, FakeOwner([Owned(n, 100 + n, "running") for n in (1, 2)], 2))
    assert (seen.state, seen.owner, seen.consuming, seen.expected) == ("running", "systemd", 2, 2)
    assert [(one.pid, one.state, one.calls_in_flight) for one in seen.workers] == [
        (101, "consuming", 40),
        (102, "consuming", 40),
    ]
    assert seen.tasks == 6
    assert list(seen.log_lines) == [f"line {n}" for n in range(5)]


def test_nobody_knows_the_calls_of_a_prefork_pool(settings: Settings, redis_client: Redis) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101, pool="prefork", tasks=3))
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running")], 1))
    assert [one.calls_in_flight for one in seen.workers] == [None]


@pytest.mark.parametrize(
    ("second", "state"),
    [
        (Owned(2, 0, "failed", 78), "failed"),
        (Owned(2, 0, "stopped"), "stopped"),
        # It has not beaten yet: what is known is its predecessor's last word.
        (Owned(2, 200, "starting"), "starting"),
        (Owned(2, 102, "running"), "silent"),
    ],
    ids=["failed", "stopped", "starting", "hangs"],
)
def test_fewer_than_expected_are_degraded(
    settings: Settings, redis_client: Any, second: Owned, state: str
) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101))
    heartbeats.beat(redis_client, beat(2, pid=102))
    redis_client.zincrby(keys.heartbeats(), -FRESH_S - 1, f"qa_worker-2@{HOST}")
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running"), second], 2))
    assert seen.state == "degraded"
    assert [one.state for one in seen.workers] == ["consuming", state]
    assert seen.workers[1].exit_code == second.exit_code


def test_a_quiet_worker_does_not_consume(settings: Settings, redis_client: Redis) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101, state="quiet"))
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running")], 1))
    assert (seen.state, seen.consuming) == ("degraded", 0)


def test_workers_without_an_owner_are_seen(settings: Settings, redis_client: Redis) -> None:
    heartbeats.beat(redis_client, beat(1, pid=os.getpid()))
    seen = gathered(settings)
    assert (seen.state, seen.owner, seen.consuming) == ("running", None, 1)


def test_a_killed_worker_without_an_owner_is_gone(settings: Settings, redis_client: Redis) -> None:
    """At once: its last beat may be fresh."""
    heartbeats.beat(redis_client, beat(1))
    seen = gathered(settings)
    assert [(one.state, one.pid) for one in seen.workers] == [("gone", 0)]
    assert seen.state == "stopped"
    assert [one.state for one in gathering.everywhere(settings)[0]] == ["gone"]


def test_a_worker_started_by_hand_is_none_of_the_owners(
    settings: Settings, redis_client: Redis
) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101))
    heartbeats.beat(redis_client, beat(2, pid=os.getpid()))
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running"), Owned(2, 0, "failed")], 2))
    assert (seen.state, seen.consuming) == ("degraded", 1)
    heartbeats.beat(redis_client, beat(3, pid=os.getpid()))
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running")], 2))
    assert (seen.consuming, seen.expected) == (1, 2)
    assert [one.owner for one in seen.workers] == ["systemd", "none", "none"]


def test_what_the_last_start_recorded_counts_where_the_owner_forgets(
    settings: Settings, redis_client: Redis
) -> None:
    """After a boot there are neither PID files nor processes."""
    fleet.expect(redis_client, HOST, 4)
    assert gathered(settings, FakeOwner(name="pid")).state == "degraded"
    assert gathered(settings).expected == 4
    # systemd remembers by itself, and knows better.
    assert gathered(settings, FakeOwner()).state == "stopped"


@pytest.mark.parametrize(
    ("scope", "state"),
    [
        (account_scope(ACCOUNT), "degraded"),
        # Its key was replaced: nobody uses it any more.
        (account_scope("ffffffff"), "running"),
        (model_scope(ACCOUNT, "gpt-5-mini"), "running"),
        (run_scope("0a1b"), "running"),
    ],
)
def test_workers_whose_account_is_held_are_degraded(
    settings: Settings, redis_client: Redis, scope: str, state: str
) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101, account=ACCOUNT))
    assert holds.set_hold(redis_client, scope, "halted", detail="no quota", by="host:1")
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running")], 1))
    assert (seen.state, seen.consuming) == (state, 1)
    [hold] = seen.shared.holds
    assert (hold.scope, hold.detail) == (scope, "no quota")
    assert 0 <= seen.shared.asked_at - hold.since < 60


def test_dead_letters_are_counted_and_the_recent_ones_apart(
    settings: Settings, redis_client: Redis
) -> None:
    for number, ago_s in enumerate((0, 60, 7200)):
        letter = DeadLetter(digest=str(number), reason="refused", died_at=time.time() - ago_s)
        put(redis_client, letter, timedelta(days=settings.outcome_days))
    shared = gathered(settings).shared
    assert (shared.dead_letters, shared.dead_recently) == (3, 2)


def test_what_limits_calls_is_seen(settings: Settings, redis_client: Redis) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101, calls_waiting=40, oldest_wait_s=12.3))

    async def call() -> None:
        rates = rate_table("http://api/v1", rpm=600)
        async with connect_async(settings.redis_url) as redis:
            limiter = Limiter(redis, ACCOUNT, rates, longest_call_s=100)
            await limiter.exchange("gpt-5-mini", (), [10])
            await limiter.pause("gpt-5-mini", 60)

    asyncio.run(call())
    workers, shared = gathering.everywhere(settings)
    assert [(one.calls_waiting, one.oldest_wait_s) for one in workers] == [(40, 12.3)]
    [limiter] = shared.limiters
    assert (limiter.account, limiter.model, limiter.open_reservations) == (ACCOUNT, "gpt-5-mini", 1)
    assert (limiter.requests.per_minute, limiter.requests.said_by) == (600, "environment")
    assert limiter.paused_until is not None
    assert limiter.paused_until - shared.asked_at == pytest.approx(60, abs=10)


def test_other_hosts_are_seen_and_not_counted_here(settings: Settings, redis_client: Redis) -> None:
    heartbeats.beat(redis_client, beat(1, host="elsewhere", tasks=7))
    fleet.expect(redis_client, "elsewhere", 2)
    seen = gathered(settings)
    assert (seen.state, seen.tasks, list(seen.workers)) == ("stopped", 0, [])
    assert [one.name for one in seen.elsewhere] == ["qa_worker-1@elsewhere"]
    assert seen.expected_elsewhere == {"elsewhere": 2}


def test_without_redis_the_owner_still_tells(settings: Settings, tmp_path: Any) -> None:
    away = settings.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"})
    seen = gathered(away, FakeOwner([Owned(1, 101, "running")], 1))
    assert (seen.state, seen.latency_ms) == ("degraded", None)
    assert [(one.pid, one.state) for one in seen.workers] == [(101, "running")]
    assert "REDIS_URL" in seen.redis_error


def test_the_redis_of_the_queue_may_be_another(
    settings: Settings, redis_client: Redis, tmp_path: Any
) -> None:
    heartbeats.beat(redis_client, beat(1, pid=101))
    apart = settings.model_copy(update={"broker_url": f"unix://{tmp_path}/no.sock"})
    seen = gathered(apart, FakeOwner([Owned(1, 101, "running")], 1))
    assert (seen.state, seen.consuming, list(seen.queues)) == ("degraded", 1, [])
    assert "CELERY_BROKER_URL" in seen.redis_error


def test_an_owner_that_does_not_answer_leaves_it_unknown(settings: Settings) -> None:
    def refuse(_settings: Settings) -> FakeOwner:
        raise NotAllowed("use sudo")

    seen = gathering.gather(settings, refuse)
    assert (seen.state, seen.owner_error) == ("unknown", "use sudo")
    assert seen.latency_ms is not None


def test_a_log_that_may_not_be_read_hides_nothing_else(
    settings: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_owner: FakeOwner, _count: int) -> list[str]:
        raise NotAllowed("use sudo")

    monkeypatch.setattr(FakeOwner, "log_lines", refuse)
    heartbeats.beat(redis_client, beat(1, pid=101))
    seen = gathered(settings, FakeOwner([Owned(1, 101, "running")], 1))
    assert (seen.state, list(seen.log_lines)) == ("running", ["use sudo"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3600 * 3 + 1300, "3 h 21 min"),
        (9e4, "1 d 1 h"),
    ],
)
def test_spans_are_spoken_in_their_largest_units(seconds: float, text: str) -> None:
    assert spoken(seconds) == text
