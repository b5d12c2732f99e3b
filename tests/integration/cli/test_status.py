"""``qaworker status`` and ``qaworker workers``, as an operator runs them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qaworker.store.heartbeats import FRESH_S
from qaworker.store.holds import set_hold
from tests.conftest import StartWorker
from tests.support.commands import Run
from tests.support.redis_server import RedisServer

NOBODY = "http://127.0.0.1:9/v1"
# The command answers in under a second; a loaded machine takes longer to start Python.
SOON_S = 3.0


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """A process that neither runs nor ends."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_page_for_a_person(run: Run, redis_url: str, worker: StartWorker) -> None:
    process = worker(2, base_url=NOBODY)
    ran = run("status", REDIS_URL=redis_url)
    lines = ran.out.splitlines()
    assert lines[0] == "=== Celery worker status ==="
    assert lines[1].startswith("Redis: ✓ running (")
    assert lines[2] == "Queue length: 0"
    assert lines[3] == "Workers: running (1 consume, owner: none)"
    [line] = [line for line in lines if line.startswith(process.name)]
    assert line.split()[1:4] == ["consuming", str(process.pid), "none"]
    assert (ran.code, ran.err) == (0, "")


def test_hanging_workers_are_told_by_their_heartbeats(
    run: Run, redis_url: str, redis_client: Any, worker: StartWorker
) -> None:
    processes = [worker(number, base_url=NOBODY) for number in (1, 2)]
    with frozen(processes[0].pid), frozen(processes[1].pid):
        redis_client.zincrby("qaw:heartbeats", -FRESH_S - 1, processes[1].name)
        ran = run("status", "--json", REDIS_URL=redis_url)
    told = json.loads(ran.out)
    assert [(one["name"], one["state"], one["pid"]) for one in told["workers"]] == [
        (processes[0].name, "consuming", processes[0].pid),
        (processes[1].name, "silent", processes[1].pid),
    ]


def test_a_frozen_redis_is_waited_for_by_nobody(
    run: Run, start_redis: Callable[..., RedisServer]
) -> None:
    redis = start_redis()
    with frozen(redis.pid):
        asked_at = time.monotonic()
        ran = run("status", REDIS_URL=redis.url)
        assert time.monotonic() - asked_at < SOON_S
    assert ran.out.splitlines()[1].startswith("Redis: ✗ not answering (")
    assert (ran.code, ran.err) == (3, "")


def test_nothing_running_is_exit_3_in_either_form(run: Run, redis_url: str) -> None:
    ran = run("status", "--json", REDIS_URL=redis_url)
    told = json.loads(ran.out)
    assert (told["state"], told["host"], told["workers"]) == ("stopped", socket.gethostname(), [])
    assert told["redis"]["reachable"]
    assert [queue["name"] for queue in told["queues"]][:2] == ["high_priority", "qa_generation"]
    assert ran.code == 3


def test_what_is_held_is_named_with_what_ends_it(
    run: Run, redis_url: str, redis_client: Any, worker: StartWorker
) -> None:
    worker(base_url=NOBODY)
    [beating] = json.loads(run("workers", "--json", REDIS_URL=redis_url).out)
    scope = f"account@{beating['account']}"
    set_hold(redis_client, scope, "halted", detail="no quota", by="host:1")
    ran = run("status", REDIS_URL=redis_url)
    state, held, remedy, letters = ran.out.splitlines()[3:7]
    assert state == "Workers: degraded (the account is held, 1 consume, owner: none)"
    assert held.startswith(f"Held: {scope} since ")
    assert held.endswith(": halted: no quota")
    assert f"`qaworker hold release {scope}`" in remedy
    assert (letters, ran.code) == ("Dead letters: 0", 1)
    assert remedy in run("workers", REDIS_URL=redis_url).out.splitlines()
    told = json.loads(run("status", "--json", REDIS_URL=redis_url).out)
    assert told["state"] == "degraded"
    assert [hold["scope"] for hold in told["holds"]] == [scope]
    assert told["dead_letters"] == {"total": 0, "last_hour": 0}
    assert told["limiters"] == []


def test_the_page_speaks_no_celery(run: Run, redis_url: str) -> None:
    """Importing it would take longer than the answer may."""
    heavy = run("status", REDIS_URL=redis_url, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in heavy.err.splitlines()}
    assert "qaworker.status.gathering" in imported
    assert not imported & {"celery", "kombu", "openai", "aiohttp"}


def test_workers_of_all_hosts_are_listed(run: Run, redis_url: str, worker: StartWorker) -> None:
    process = worker(base_url=NOBODY)
    told = json.loads(run("workers", "--json", REDIS_URL=redis_url).out)
    assert [(one["name"], one["state"], one["pid"]) for one in told] == [
        (process.name, "consuming", process.pid)
    ]
    assert process.name in run("workers", REDIS_URL=redis_url).out


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_without_redis_no_worker_can_be_listed(
    run: Run, nowhere: str, options: tuple[str, ...]
) -> None:
    ran = run("workers", *options, REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (75, "")
    assert "REDIS_URL" in ran.complaint
