"""What a client learns of workers that do nothing for it."""

from __future__ import annotations

import os

from redis import Redis

from qaworker.cli.runs import BEATS_WITHIN_S, Held
from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat


def test_workers_are_given_time_to_come(redis_client: Redis) -> None:
    now_s = 0.0
    held = Held(redis_client, clock=lambda: now_s)
    assert list(held()) == []
    now_s = BEATS_WITHIN_S
    [line] = held()
    assert line.startswith("no worker process answers: start them")

    name, counts = "qa_worker-1@host", {"calls_in_flight": 0, "chunks_done": 0}
    beat = Beat(name=name, pid=os.getpid(), pool="threads", started_at=1.0, **counts)
    heartbeats.beat(redis_client, beat)
    assert list(held()) == []
    heartbeats.beat(redis_client, beat.model_copy(update={"held": "no quota"}))
    assert list(held()) == ["workers call nobody for now: no quota"]
