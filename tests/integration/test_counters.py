"""Counters in a real Redis."""

from __future__ import annotations

import pytest
from redis import Redis

from qaworker import keys
from qaworker.store.counters import (
    CALL,
    CHUNKS,
    LIMITER_WAIT,
    MICRO_DOLLARS,
    MOST_MODELS,
    OTHER,
    REDELIVERIES,
    REQUESTS,
    Counts,
    Durations,
    Portion,
    counted,
)


def send(redis: Redis, portion: Portion, writer: str = "me") -> str:
    """Hand a portion over, as a process does; returns what went wrong."""
    with redis.pipeline(transaction=True) as pipe:
        portion.add_to(pipe, writer)
        (problem,) = pipe.execute()
    return str(problem.decode())


def test_processes_add_up(redis_client: Redis) -> None:
    for writer in ("one", "two"):
        counts = Counts()
        counts.add(CHUNKS, "ok", by=3)
        counts.add(REDELIVERIES)
        counts.add(REQUESTS, "ok", "gpt|5", by=2)
        counts.add(MICRO_DOLLARS, "gpt|5", by=7)
        counts.observe(CALL, 1.5, "gpt|5")
        assert not send(redis_client, counts.take(), writer)
    found = counted(redis_client)
    assert found.totals[CHUNKS] == {("ok",): 6}
    assert found.totals[REDELIVERIES] == {(): 2}
    assert found.totals[REQUESTS] == {("ok", "gpt|5"): 4}
    assert found.totals[MICRO_DOLLARS] == {("gpt|5",): 14}
    assert found.histograms[CALL] == {"gpt|5": Durations((0, 0, 0, 2, *[0] * 7), 3.0)}
    assert found.models == {"gpt|5"}


def test_a_batch_that_is_sent_again_counts_once(redis_client: Redis) -> None:
    counts = Counts()
    counts.add(CHUNKS, "ok")
    first = counts.take()
    counts.add(CHUNKS, "ok")
    second = counts.take()
    for portion in (first, first, second, first, second):
        assert not send(redis_client, portion)
    assert counted(redis_client).totals[CHUNKS] == {("ok",): 2}


def test_a_writer_is_forgotten_and_what_it_counted_is_not(redis_client: Redis) -> None:
    counts = Counts()
    counts.add(CHUNKS, "ok")
    send(redis_client, counts.take())
    assert redis_client.ttl(keys.counted("me")) > 0
    assert redis_client.ttl(keys.counters()) == -1


def test_the_first_models_are_counted_by_name_and_all_others_together(redis_client: Redis) -> None:
    counts = Counts()
    for number in range(MOST_MODELS + 5):
        counts.add(REQUESTS, "ok", f"model-{number}")
        counts.observe(CALL, 1.0, f"model-{number}")
    send(redis_client, counts.take())
    counts.add(REQUESTS, "ok", "model-0")
    counts.add(REQUESTS, "ok", "model-late")
    send(redis_client, counts.take())
    found = counted(redis_client)
    assert len(found.models) == MOST_MODELS
    assert len(found.totals[REQUESTS]) == MOST_MODELS + 1
    assert found.totals[REQUESTS]["ok", OTHER] == 6
    assert found.totals[REQUESTS]["ok", "model-0"] == 2
    assert found.histograms[CALL][OTHER].counts[2] == 5


def test_a_model_that_was_never_answered_for_takes_no_place(redis_client: Redis) -> None:
    counts = Counts()
    for number in range(MOST_MODELS):
        counts.add(REQUESTS, "model_refused", f"typo-{number}")
    counts.observe(LIMITER_WAIT, 1.0, "right")
    counts.add(REQUESTS, "ok", "right")
    send(redis_client, counts.take())
    found = counted(redis_client)
    assert found.models == {"right"}
    assert found.totals[REQUESTS] == {("model_refused", OTHER): MOST_MODELS, ("ok", "right"): 1}
    assert set(found.histograms[LIMITER_WAIT]) == {"right"}


def test_bounds_of_another_version_count_among_longer_ones(redis_client: Redis) -> None:
    redis_client.hset(
        keys.counters(),
        mapping={
            "limiter_wait|0.3|m": 1,
            "limiter_wait|7200|m": 2,
            "limiter_wait|sum|m": 14_400_300_000,
        },
    )
    found = counted(redis_client).histograms[LIMITER_WAIT]["m"]
    assert found.counts == (0, 0, 1, *[0] * 7, 2)
    assert found.sum_s == 14_400.3


def test_what_another_version_counts_is_left_out(redis_client: Redis) -> None:
    redis_client.hset(keys.counters(), mapping={"novelties|a|b": 1, "chunks|ok": 2, "chunks": 3})
    redis_client.hset(keys.counters(), mapping={"chunks|dead": "many", "call|long|m": 1})
    found = counted(redis_client)
    assert found.totals[CHUNKS] == {("ok",): 2}
    assert found.histograms[CALL] == {}


@pytest.mark.parametrize("key", [keys.counters(), keys.counted("me"), keys.counted_models()])
def test_a_count_that_redis_refuses_is_told_and_stops_nobody(redis_client: Redis, key: str) -> None:
    redis_client.rpush(key, "not ours")
    counts = Counts()
    counts.add(REQUESTS, "ok", "m")
    portion = counts.take()
    with redis_client.pipeline(transaction=True) as pipe:
        pipe.set("qaw:beside", "stored")
        portion.add_to(pipe, "me")
        _, problem = pipe.execute()
    assert b"WRONGTYPE" in problem
    assert redis_client.get("qaw:beside") == b"stored"
