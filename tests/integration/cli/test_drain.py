"""What ``qaworker drain`` tells workers and says of them; the workers are the test's own beats."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.cli import drain
from qaworker.cli.main import main
from qaworker.store import heartbeats
from qaworker.store.heartbeats import FRESH_S, Beat, Farewell
from tests.support.commands import LONGEST_S, Run
from tests.support.processes import QAWORKER, child_environment
from tests.support.waiting import wait_until

NAMES = ["qa_worker-1@a", "qa_worker-1@b", "qa_worker-2@a", "qa_worker-3@a"]


def beat(redis: Redis, name: str, **said: Any) -> None:
    state = {"pid": 1, "pool": "threads", "started_at": 1.0, "calls_in_flight": 0, "chunks_done": 0}
    heartbeats.beat(redis, Beat(name=name, **state | said))


def told(redis: Any) -> list[str]:
    return sorted(name.decode() for name in redis.smembers(keys.quiet()))


@pytest.fixture
def workers(redis_client: Redis) -> Redis:
    """Four workers of two hosts that hold tasks."""
    for name in NAMES:
        beat(redis_client, name, tasks=3, oldest_task_s=7)
    return redis_client


def test_it_waits_for_each_and_says_what_became_of_it(
    workers: Any, redis_url: str, tmp_path: Path
) -> None:
    with subprocess.Popen(
        [*QAWORKER, "drain", "--json"],
        env=child_environment(tmp_path, REDIS_URL=redis_url, COLUMNS="200"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as drain:
        wait_until(lambda: told(workers) == NAMES, LONGEST_S, "the workers to be told")
        beat(workers, NAMES[0], state="quiet", tasks=0)
        workers.zincrby(keys.heartbeats(), -FRESH_S - 1, NAMES[1])
        beat(workers, NAMES[3], started_at=2.0)
        beat(workers, NAMES[2], state="draining", tasks=1)
        heartbeats.forget(workers, NAMES[2], Farewell(finished=1, handed_back=2))
        out, err = drain.communicate(timeout=LONGEST_S)
    became = dict(zip(NAMES, ["quiet", "lost", "ended", "replaced"], strict=True))
    assert json.loads(out) == became
    assert drain.returncode == 1
    assert f"{NAMES[0]} is quiet" in err
    assert f"{NAMES[1]} does not answer any more" in err


def test_a_wait_that_is_long_says_for_whom_and_why(
    workers: Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    beat(workers, NAMES[0], tasks=2, oldest_task_s=7, held="model_refused: no such model")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(drain, "TELL_EVERY_S", 0.1)
    assert main(["drain", "--worker", NAMES[0], "--timeout", "1"]) == 75
    said = f"{NAMES[0]}: tasks: 2, the oldest for 7 s, which waits for a hold (model_refused: "
    assert capsys.readouterr().err.count(said) > 1


def test_what_still_has_tasks_is_waited_for_later(workers: Redis, run: Run, redis_url: str) -> None:
    beat(workers, NAMES[0], state="quiet", tasks=2, oldest_task_s=7)
    ran = run("drain", "--worker", NAMES[0], "--timeout", "0", REDIS_URL=redis_url)
    assert ran.code == 75
    assert f"{NAMES[0]}: tasks: 2, the oldest for 7 s" in ran.err
    assert told(workers) == NAMES[:1]


@pytest.mark.parametrize("options", [["--no-wait"], ["--resume"], ["--resume", "--no-wait"]])
def test_workers_are_told_both_ways(
    workers: Redis, run: Run, redis_url: str, options: list[str]
) -> None:
    ran = run("drain", *options, "--json", "--worker", "qa_worker-2", REDIS_URL=redis_url)
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {NAMES[2]: "told" if "--no-wait" in options else "consuming"}
    assert told(workers) == ([] if "--resume" in options else [NAMES[2]])


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("qa_worker-9", f"no worker named qa_worker-9 answers; there are: {', '.join(NAMES)}"),
        (
            "qa_worker-1",
            "several workers are named qa_worker-1: say which of " + ", ".join(NAMES[:2]),
        ),
    ],
)
def test_a_name_of_none_or_of_several_is_one_line_and_nobody_is_told(
    workers: Redis, run: Run, redis_url: str, name: str, complaint: str
) -> None:
    ran = run("drain", "--worker", NAMES[3], "--worker", name, REDIS_URL=redis_url)
    assert (ran.code, ran.out) == (1, "")
    assert ran.complaint == f"qaworker: {complaint}"
    assert told(workers) == []


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--resume"], 1)])
def test_without_workers_nothing_is_taken(
    run: Run, redis_url: str, options: list[str], code: int
) -> None:
    ran = run("drain", *options, REDIS_URL=redis_url)
    assert (ran.code, ran.complaint) == (code, "no worker answers: none takes anything")


def test_without_redis(run: Run, nowhere: str) -> None:
    ran = run("drain", REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.endswith("start it, or correct REDIS_URL")
