"""What a client learns of workers that do nothing for it."""

from __future__ import annotations

import os

import pytest
from redis import Redis

from qaworker.cli.runs import BEATS_WITHIN_S, Held
from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat
from qaworker.store.holds import set_hold


def test_workers_are_given_time_to_come(redis_client: Redis) -> None:
    now_s = 0.0
    held = Held(redis_client, "gpt-5-mini", clock=lambda: now_s)
    assert list(held()) == []
    now_s = BEATS_WITHIN_S
    [line] = held()
    assert line.startswith("no worker process answers: start them")

    beat = Beat(name="qa_worker-1@host", pid=os.getpid(), account="1a2b3c4d")
    heartbeats.beat(redis_client, beat)
    assert list(held()) == []


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("account@1a2b3c4d", ["workers call nobody for now: no quota"]),
        ("model:gpt-5-mini@1a2b3c4d", ["workers call no gpt-5-mini for now: no quota"]),
        ("account@ffffffff", []),
        ("model:gpt-4o@1a2b3c4d", []),
    ],
)
def test_a_hold_that_concerns_the_run_is_told(
    redis_client: Redis, scope: str, said: list[str]
) -> None:
    beat = Beat(name="qa_worker-1@host", pid=os.getpid(), account="1a2b3c4d")
    heartbeats.beat(redis_client, beat)
    set_hold(redis_client, scope, "halted", detail="no quota", by="host:1")
    assert list(Held(redis_client, "gpt-5-mini")()) == said
    assert list(Held(redis_client, "gpt-5-mini", own="1a2b3c4d")()) == said


def test_a_command_that_calls_by_itself_waits_for_no_worker(redis_client: Redis) -> None:
    now_s = 0.0
    held = Held(redis_client, "gpt-5-mini", own="1a2b3c4d", clock=lambda: now_s)
    now_s = BEATS_WITHIN_S
    assert list(held()) == []


def test_a_model_that_is_refused_is_said_to_be_corrected(redis_client: Redis) -> None:
    scope = "model:typo@1a2b3c4d"
    set_hold(redis_client, scope, "model_refused", detail="asked by run 7: 404", by="host:1")
    [line] = Held(redis_client, "typo", own="1a2b3c4d")()
    for word in ("no typo for now: asked by run 7: 404", "Ctrl-C", "cancel RUN_DIR", "--output"):
        assert word in line
