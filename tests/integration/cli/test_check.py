from __future__ import annotations

import json
from collections.abc import Callable

from tests.conftest import StartWorker
from tests.support.commands import Run
from tests.support.simulators import SimulatorProcess

CHECKS = ["settings", "redis", "workers", "api", "disk"]
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
        "api": "FAILED",
        "disk": "OK",
    }
    assert (ran.code, ran.err) == (1, "")


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
    assert ran.out.splitlines()[2].startswith("broker: FAILED: Redis does not answer")
    assert (ran.code, ran.err) == (1, "")


def test_the_same_redis_is_checked_once(run: Run, nowhere: str) -> None:
    ran = run("check", REDIS_URL=nowhere, CELERY_BROKER_URL=nowhere, OPENAI_BASE_URL=NOBODY)
    assert "broker" not in ran.out


def test_an_address_of_no_redis_is_a_finding(run: Run) -> None:
    ran = run("check", REDIS_URL="localhost:6379", OPENAI_BASE_URL=NOBODY)
    assert "redis: FAILED: " in ran.out
    assert (ran.code, ran.err) == (1, "")


def test_a_model_that_the_api_does_not_offer_is_found(
    run: Run, nowhere: str, simulator: Callable[..., SimulatorProcess]
) -> None:
    api = simulator()
    env = {"REDIS_URL": nowhere, "OPENAI_BASE_URL": api.base_url, "QAWORKER_MODEL": "no-such-model"}
    ran = run("check", **env)
    [line] = [line for line in ran.out.splitlines() if line.startswith("api: ")]
    assert line.startswith("api: FAILED: ")
    assert "no-such-model" in line
