"""A run's budget between its ledger, Redis and those who hold it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys
from qaworker.client.budget import Budget
from qaworker.client.requeueing import requeue
from qaworker.client.senders import publish
from qaworker.engine.batches import Batch, parse_batch
from qaworker.errors import ConfigError
from qaworker.limits.budget import Budgets, State, open_budget, state
from qaworker.llm.prices import Price
from qaworker.models import Chunk, GenerationConfig, Outcome, Usage
from qaworker.store import holds
from qaworker.store.dead_letters import letter_of
from qaworker.store.holds import BUDGET, BUDGET_UNKNOWN, UNPRICED, run_scope
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import encode

PRICE = Price.model_validate({"input": 1, "output": 10})
KEEP = timedelta(days=30)
CHUNKS = 4


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create_or_open(tmp_path / "run") as ledger:
        ledger.describe({"model": "gpt-5-mini"})
        ledger.fill(
            (Chunk(chunk_id=f"c{n}", text=f"text {n}", language="en", pairs_wanted=1), f"d{n}")
            for n in range(CHUNKS)
        )
        ledger.mark_filled(documents=1, skipped_rows=0)
        yield ledger


@pytest.fixture
def budget(ledger: Ledger, redis_client: Redis) -> Budget:
    return Budget(redis_client, ledger, PRICE, keep=KEEP)


def spend(ledger: Ledger, micros: int) -> None:
    """Let the run have paid for an answer."""
    usage = Usage(input=micros)
    ledger.record([Outcome(digest="d0", kind="ok", usage=usage, calls=1, run_id=ledger.run_id)])


def waiting(ledger: Ledger) -> int:
    return len(ledger.waiting(CHUNKS))


def test_it_is_kept_in_the_ledger_and_opened_again_where_redis_lost_it(
    ledger: Ledger, redis_client: Redis, budget: Budget
) -> None:
    budget.set(500, redis_client)
    assert ledger.budget_micros == 500
    assert state(redis_client, ledger.run_id) == State(500, 0, 0)
    spend(ledger, 120)
    redis_client.flushall()
    Budget(redis_client, ledger, PRICE, keep=KEEP).resume()
    assert state(redis_client, ledger.run_id) == State(500, 120, 0)
    assert budget.held() is None


def test_a_run_without_a_budget_opens_none(ledger: Ledger, redis_client: Redis) -> None:
    budget = Budget(redis_client, ledger, None, keep=KEEP)
    budget.resume()
    budget.renew()
    assert budget.held() is None
    assert redis_client.dbsize() == 0


def test_less_than_is_spent_is_refused(ledger: Ledger, redis_client: Redis, budget: Budget) -> None:
    budget.set(500, redis_client)
    spend(ledger, 200)
    with pytest.raises(
        ConfigError, match=r"has spent \$0.0002 already: give a --budget of \$0.0002 or more"
    ):
        budget.set(199, redis_client)
    assert (ledger.budget_micros, state(redis_client, ledger.run_id).budget_micros) == (500, 500)
    budget.set(200, redis_client)
    assert state(redis_client, ledger.run_id) == State(200, 200, 0)


def test_less_than_calls_under_way_may_cost_is_refused(
    ledger: Ledger, redis_client: Redis, redis_url: str, budget: Budget
) -> None:
    budget.set(500, redis_client)
    spend(ledger, 100)
    budget.renew()

    async def call() -> None:
        async with AsyncRedis.from_url(redis_url) as redis:
            budgets = Budgets(redis, keep=KEEP)
            await budgets.reserve(ledger.run_id, [budgets.reservation(200)])

    asyncio.run(call())
    with pytest.raises(
        ConfigError,
        match=r"spent \$0.0001 already, and calls under way may cost \$0.0002 more:"
        r" give a --budget of \$0.0003 or more",
    ):
        budget.set(299, redis_client)
    assert state(redis_client, ledger.run_id) == State(500, 100, 200)
    budget.set(300, redis_client)
    assert state(redis_client, ledger.run_id) == State(300, 100, 200)


def test_a_run_whose_budget_redis_has_lost_goes_on_when_its_client_looks(
    ledger: Ledger, redis_client: Redis, budget: Budget
) -> None:
    budget.set(500, redis_client)
    ledger.mark_sent(["d0"], time.time())
    redis_client.flushall()
    scope = run_scope(ledger.run_id)
    holds.set_hold(redis_client, scope, BUDGET_UNKNOWN, by="a worker")
    assert budget.held() is None
    assert state(redis_client, ledger.run_id) == State(500, 0, 0)
    assert waiting(ledger) == CHUNKS


def test_a_larger_one_releases_what_was_held_for_it_and_sends_all_again(
    ledger: Ledger, redis_client: Redis, budget: Budget
) -> None:
    budget.set(500, redis_client)
    ledger.mark_sent(["d0", "d1"], time.time())
    scope = run_scope(ledger.run_id)
    holds.set_hold(redis_client, scope, BUDGET, detail="all of it", by="a worker")
    assert str(budget.held()) == (
        "the budget does not cover another call (all of it):"
        " the same command with a larger --budget goes on"
    )
    for micros in (500, 400):
        budget.set(micros, redis_client)
        budget.resume()
        assert budget.held() is not None
    assert waiting(ledger) == CHUNKS - 2
    budget.set(600, redis_client)
    assert budget.held() is None
    assert waiting(ledger) == CHUNKS


@pytest.mark.parametrize("reason", ["ask Mia", BUDGET])
def test_an_operators_hold_outlasts_a_larger_budget(
    ledger: Ledger, redis_client: Redis, budget: Budget, reason: str
) -> None:
    budget.set(500, redis_client)
    scope = run_scope(ledger.run_id)
    holds.set_hold(redis_client, scope, BUDGET, by="a worker")
    holds.set_hold(redis_client, scope, reason)
    budget.set(600, redis_client)
    assert str(budget.held()) == (
        f"the run is held ({reason}): after `qaworker hold release {scope}` the same command goes on"
    )


def test_what_workers_held_of_a_complete_run_is_released(
    ledger: Ledger, redis_client: Redis, budget: Budget
) -> None:
    scope = run_scope(ledger.run_id)
    holds.set_hold(redis_client, scope, BUDGET, by="a worker")
    budget.release()
    assert budget.held() is None
    holds.set_hold(redis_client, scope, "ask Mia")
    budget.release()
    assert budget.held() is not None


def test_a_price_that_a_worker_lacked_is_tried_again(
    ledger: Ledger, redis_client: Redis, budget: Budget
) -> None:
    budget.set(500, redis_client)
    ledger.mark_sent(["d0"], time.time())
    detail = "the price of m is not known: name a file"
    holds.set_hold(redis_client, run_scope(ledger.run_id), UNPRICED, detail=detail, by="a worker")
    assert str(budget.held()) == f"the run is held: {detail}; then the same command goes on"
    budget.resume()
    assert budget.held() is None
    assert waiting(ledger) == CHUNKS


@pytest.mark.usefixtures("client_env")
def test_chunks_under_way_without_a_budget_are_taken_back_first(
    ledger: Ledger, redis_client: Any, budget: Budget
) -> None:
    ((chunk, digest),) = ledger.waiting(1)
    ledger.mark_sent([digest], time.time())
    batch = Batch((chunk,), (digest,), GenerationConfig(), "gpt-5-mini", ledger.run_id)
    publish(batch, keys.DEFAULT_QUEUE, time.time())
    with pytest.raises(ConfigError, match="take them back with `qaworker cancel`"):
        budget.set(500, redis_client)
    # As when a worker has it, or was killed with it.
    message = redis_client.lpop(keys.queue(keys.DEFAULT_QUEUE))
    delivery = json.dumps([json.loads(message), "", keys.DEFAULT_QUEUE])
    redis_client.hset(keys.unacked(), "tag", delivery)
    with pytest.raises(ConfigError, match="under way without a budget"):
        budget.set(500, redis_client)
    redis_client.delete(keys.unacked())
    redis_client.set(keys.claim(digest), "a worker")
    with pytest.raises(ConfigError, match="under way without a budget"):
        budget.set(500, redis_client)
    assert ledger.budget_micros is None
    redis_client.delete(keys.claim(digest))
    budget.set(500, redis_client)
    # What has one already is not asked.
    publish(batch, keys.DEFAULT_QUEUE, time.time())
    budget.set(600, redis_client)
    assert ledger.budget_micros == 600


@pytest.mark.parametrize("is_told", [False, True])
@pytest.mark.parametrize("is_held", [False, True])
def test_what_is_paid_and_not_yet_collected_counts_against_a_first_one(
    ledger: Ledger, redis_client: Any, budget: Budget, *, is_told: bool, is_held: bool
) -> None:
    """As after `submit`; a notice is lost with the command that took it."""
    digests = ["d0", "d1", "d2"]
    ledger.mark_sent(digests, time.time())
    if is_held:
        ledger.mark_all_waiting()
    for digest in digests:
        usage = Usage(input=100)
        outcome = Outcome(digest=digest, kind="ok", usage=usage, calls=1, run_id=ledger.run_id)
        redis_client.set(keys.outcome(digest), encode(outcome))
    if is_told:
        redis_client.rpush(keys.done(ledger.run_id), *digests)
    with pytest.raises(ConfigError, match=r"has spent \$0.0003 already"):
        budget.set(299, redis_client)
    assert ledger.budget_micros is None
    budget.set(300, redis_client)
    assert state(redis_client, ledger.run_id) == State(300, 300, 0)
    assert ledger.counts().ok == 3


@pytest.mark.usefixtures("client_env")
@pytest.mark.parametrize("state_now", ["waiting", "dead"])
def test_chunks_under_way_are_found_whatever_the_ledger_says_of_them_now(
    ledger: Ledger, redis_client: Any, budget: Budget, state_now: str
) -> None:
    ((chunk, digest),) = ledger.waiting(1)
    ledger.mark_sent([digest], time.time())
    batch = Batch((chunk,), (digest,), GenerationConfig(), "gpt-5-mini", ledger.run_id)
    publish(batch, keys.DEFAULT_QUEUE, time.time())
    if state_now == "waiting":  # the run was held meanwhile
        ledger.mark_all_waiting()
    else:  # it was requeued
        ledger.record([Outcome(digest=digest, kind="dead", run_id=ledger.run_id)])
    assert not list(ledger.sent())
    with pytest.raises(ConfigError, match="under way without a budget"):
        budget.set(500, redis_client)
    redis_client.delete(keys.queue(keys.DEFAULT_QUEUE))
    budget.set(500, redis_client)
    assert ledger.budget_micros == 500


@pytest.mark.usefixtures("client_env")
@pytest.mark.parametrize("is_budgeted", [False, True])
def test_chunks_that_are_requeued_keep_to_their_runs_budget(
    redis_client: Any, *, is_budgeted: bool
) -> None:
    if is_budgeted:
        open_budget(redis_client, "run", 100, spent_micros=0, keep=KEEP)
    chunk = {"chunk_id": "c", "text": "The tide turns.", "language": "en"}
    batch = parse_batch([chunk], None, "gpt-5-mini", run_id="run")
    (digest,) = batch.digests
    outcome = Outcome(digest=digest, kind="dead", reason="refused", run_id="run")
    queue = keys.DEFAULT_QUEUE
    letter = letter_of(outcome, batch.chunks[0], batch.config, batch.model, queue=queue, attempts=1)
    assert requeue(redis_client, [letter], KEEP).sent == 1
    message = json.loads(redis_client.lindex(keys.queue(queue), 0))
    assert message["headers"].get("qaworker_budget", False) is is_budgeted
