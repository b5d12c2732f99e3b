from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from qaworker import checks
from qaworker.settings import Settings
from qaworker.store import fleet, heartbeats
from qaworker.store.heartbeats import Beat
from qaworker.store.holds import account_scope, model_scope, set_hold
from tests.conftest import StartWorker
from tests.support.commands import Run
from tests.support.simulators import SimulatorProcess

CHECKS = ["settings", "redis", "workers", "owner", "api", "disk"]
NOBODY = "http://127.0.0.1:9/v1"


def test_each_check_is_one_line_and_one_failure_is_exit_1(run: Run, nowhere: str) -> None:
    ran = run("check", REDIS_URL=nowhere, OPENAI_BASE_URL=NOBODY)
    lines = [line.split(": ", 2) for line in ran.out.splitlines()]
    assert [name for name, _, _ in lines] == CHECKS
    found = {name: verdict for name, verdict, _ in lines}
    assert found == {
        "settings": "OK",
        "redis": "FAILED",
        "workers": "FAILED",
        "owner": "OK",
        "api": "FAILED",
        "disk": "OK",
    }
    assert (ran.code, ran.err) == (1, "")
    [_, _, said] = lines[CHECKS.index("api")]
    assert said.endswith(": start it, or correct OPENAI_BASE_URL")
    assert "ssl:default" not in said


def test_a_missing_key_is_a_finding(run: Run, nowhere: str) -> None:
    ran = run("check", "--json", REDIS_URL=nowhere)
    found = {each["check"]: each for each in json.loads(ran.out)}
    assert not found["settings"]["ok"]
    assert "OPENAI_API_KEY is not set" in found["settings"]["text"]
    assert ran.code == 1


def test_with_everything_there_all_is_ok(
    run: Run, redis_url: str, simulator: Callable[..., SimulatorProcess], worker: StartWorker
) -> None:
    api = simulator()
    process = worker(base_url=api.base_url)
    ran = run("check", "--json", "--call", REDIS_URL=redis_url, OPENAI_BASE_URL=api.base_url)
    found = {each["check"]: each for each in json.loads(ran.out)}
    assert list(found) == [*CHECKS, "call"]
    assert all(each["ok"] for each in found.values()), ran.out
    assert process.name in found["workers"]["text"]
    assert ran.code == 0


def test_a_queue_of_its_own_is_checked_too(run: Run, redis_url: str, nowhere: str) -> None:
    env = {"REDIS_URL": redis_url, "OPENAI_BASE_URL": NOBODY}
    lines = run("check", CELERY_BROKER_URL=f"{redis_url}?db=1", **env).out.splitlines()
    assert [line.split(":")[0] for line in lines] == [*CHECKS[:2], "broker", *CHECKS[2:]]
    assert lines[2].startswith("broker: OK: version ")
    ran = run("check", CELERY_BROKER_URL=nowhere, **env)
    broker = ran.out.splitlines()[2]
    assert broker.startswith("broker: FAILED: Redis does not answer")
    assert broker.endswith("start it, or correct CELERY_BROKER_URL")
    assert (ran.code, ran.err) == (1, "")


def test_the_same_redis_is_checked_once(run: Run, nowhere: str) -> None:
    ran = run("check", REDIS_URL=nowhere, CELERY_BROKER_URL=nowhere, OPENAI_BASE_URL=NOBODY)
    assert "broker" not in ran.out


def test_an_address_of_no_redis_is_one_line(run: Run) -> None:
    ran = run("check", REDIS_URL="localhost:6379", OPENAI_BASE_URL=NOBODY)
    assert (ran.code, ran.out) == (78, "")
    assert ran.complaint.startswith("qaworker: REDIS_URL: must begin with redis://")


def test_a_model_that_the_api_does_not_offer_is_found(
    run: Run, nowhere: str, simulator: Callable[..., SimulatorProcess]
) -> None:
    api = simulator()
    env = {"REDIS_URL": nowhere, "OPENAI_BASE_URL": api.base_url, "QAWORKER_MODEL": "no-such-model"}
    ran = run("check", **env)
    [line] = [line for line in ran.out.splitlines() if line.startswith("api: ")]
    assert line.startswith("api: FAILED: ")
    assert "no-such-model" in line


@pytest.mark.parametrize(
    ("expected", "said", "finding"),
    [
        (1, {}, "OK: 1 consume: qa_worker-1@host"),
        (2, {}, "FAILED: 1 of 2 answer on host: "),
        (1, {"state": "quiet"}, "FAILED: quiet: qa_worker-1@host: `qaworker drain --resume`"),
        (1, {"state": "draining"}, "FAILED: all workers are ending"),
        (1, {"api": "https://api.openai.com/v1"}, "OK: 1 consume"),
        (1, {"api": "http://vllm/v1"}, "FAILED: qa_worker-1@host calls http://vllm/v1, and this"),
    ],
)
def test_workers_that_do_not_consume_are_found(
    redis_url: str, redis_client: Redis, expected: int, said: dict[str, Any], finding: str
) -> None:
    state = {"pid": 1, "pool": "threads", "started_at": 1.0, "calls_in_flight": 0, "chunks_done": 0}
    heartbeats.beat(redis_client, Beat(name="qa_worker-1@host", **state | said))
    fleet.expect(redis_client, "host", expected)
    fleet.expect(redis_client, "stopped", 0)
    found = checks.finding("workers", lambda: checks._workers(Settings(redis_url=redis_url)))
    assert f"{'OK' if found.is_ok else 'FAILED'}: {found.text}".startswith(finding)


@pytest.mark.parametrize(
    ("scope", "is_found"),
    [
        (account_scope("1a2b3c4d"), True),
        (model_scope("1a2b3c4d", "gpt-5-mini"), True),
        (model_scope("1a2b3c4d", "gpt-5-mini-typo"), False),
        (account_scope("ffffffff"), False),
    ],
)
def test_a_hold_is_found_that_workers_heed(
    redis_url: str, redis_client: Redis, scope: str, is_found: bool
) -> None:
    # Under prefork no heartbeat tells of it.
    beat = Beat(name="qa_worker-1@host", pid=1, pool="prefork", account="1a2b3c4d")
    heartbeats.beat(redis_client, beat)
    set_hold(redis_client, scope, "halted", detail="no quota", by="w-1@host")
    found = checks.finding("workers", lambda: checks._workers(Settings(redis_url=redis_url)))
    assert found.is_ok != is_found
    if is_found:
        assert found.text.startswith(f"{scope} is held (halted: no quota): ")


def test_all_that_are_quiet_are_named(redis_url: str, redis_client: Redis) -> None:
    for number in (1, 2):
        heartbeats.beat(
            redis_client,
            Beat(
                name=f"qa_worker-{number}@host",
                pid=1,
                pool="threads",
                started_at=1.0,
                state="quiet",
                calls_in_flight=0,
                chunks_done=0,
            ),
        )
    found = checks.finding("workers", lambda: checks._workers(Settings(redis_url=redis_url)))
    assert found.text.startswith("quiet: qa_worker-1@host, qa_worker-2@host: ")
