"""The budget's script in a real Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys
from qaworker.errors import StoreUnavailable
from qaworker.limits.budget import Budgets, Granted, Settlement, State, open_budget, state
from qaworker.store.connections import now_s
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

T = TypeVar("T")

RUN = "run"
KEEP = timedelta(days=30)
WAIT_S = 10.0


def with_budgets(
    url: str,
    scenario: Callable[[Budgets], Awaitable[T]],
    *,
    open_for: timedelta = timedelta(minutes=10),
) -> T:
    """Run a scenario with what a worker process has."""

    async def host() -> T:
        async with AsyncRedis.from_url(url) as redis:
            return await scenario(Budgets(redis, keep=KEEP, open_for=open_for))

    return asyncio.run(host())


@dataclass(frozen=True)
class Given:
    """The reservations that were granted, and where the run stands then."""

    reservations: tuple[str, ...]
    state: State


async def reserve(
    budgets: Budgets, micros: Sequence[int], settled: Sequence[Settlement] = (), run_id: str = RUN
) -> Given:
    asked = [budgets.reservation(amount) for amount in micros]
    granted = await budgets.reserve(run_id, asked, settled)
    return Given(tuple(asked[: granted.reservations]), granted.state)


def opened(redis: Redis, micros: int, spent: int = 0) -> State:
    return open_budget(redis, RUN, micros, spent_micros=spent, keep=KEEP)


def test_the_first_that_fit_are_granted(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)

    async def scenario(budgets: Budgets) -> None:
        first = await reserve(budgets, [60, 30, 20, 5])
        assert len(first.reservations) == 2
        assert first.state == State(100, 0, 90)
        # Not the 5 that would fit: a prompt that waits is not overtaken by smaller ones for ever.
        second = await reserve(budgets, [11, 10])
        assert second.reservations == ()
        third = await reserve(budgets, [10])
        assert third.state == State(100, 0, 100)
        # All of it may be free again: whoever is refused now has something to wait for.
        assert third.state.covers(100)
        assert not third.state.covers(101)

    with_budgets(redis_url, scenario)
    assert state(redis_client, RUN) == State(100, 0, 100)


def test_settling_charges_the_cost_and_frees_the_rest(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)

    async def scenario(budgets: Budgets) -> None:
        cheap, dear = (await reserve(budgets, [50, 50])).reservations
        assert await budgets.settle(RUN, [Settlement(cheap, 10)]) == State(100, 10, 50)
        # A server may count more than was expected: it is charged all the same.
        assert await budgets.settle(RUN, [Settlement(dear, 60)]) == State(100, 70, 0)
        granted = await reserve(budgets, [31])
        assert granted.reservations == ()
        assert granted.state.covers(30)
        assert not granted.state.covers(31)

    with_budgets(redis_url, scenario)


def test_settling_twice_charges_once(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)

    async def scenario(budgets: Budgets) -> None:
        (reservation,) = (await reserve(budgets, [50])).reservations
        settled = Settlement(reservation, 20)
        assert await budgets.settle(RUN, [settled, settled]) == State(100, 20, 0)
        assert await budgets.settle(RUN, [settled]) == State(100, 20, 0)
        again = await reserve(budgets, [80], [settled])
        assert again.state == State(100, 20, 80)

    with_budgets(redis_url, scenario)


def test_what_is_settled_with_a_request_makes_room_for_it(
    redis_url: str, redis_client: Redis
) -> None:
    opened(redis_client, 100)

    async def scenario(budgets: Budgets) -> None:
        (reservation,) = (await reserve(budgets, [100])).reservations
        granted = await reserve(budgets, [70], [Settlement(reservation, 30)])
        assert len(granted.reservations) == 1

    with_budgets(redis_url, scenario)


def test_a_reservation_asked_for_again_is_charged_once(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)

    async def scenario(budgets: Budgets) -> None:
        for _ in range(2):  # as a client does whose connection broke
            one = await budgets.reserve(RUN, ["me-1:40", "me-2:40"])
            assert one == Granted(2, State(100, 0, 80))

    with_budgets(redis_url, scenario)


def test_a_reservation_that_was_charged_meanwhile_is_charged_once(
    redis_url: str, redis_client: Redis
) -> None:
    opened(redis_client, 100)

    def asked(open_for: timedelta) -> Granted:
        return with_budgets(
            redis_url, lambda budgets: budgets.reserve(RUN, ["me-1:60"]), open_for=open_for
        )

    asked(timedelta(seconds=1))
    wait_until(
        lambda: opened(redis_client, 100) == State(100, 60, 0), WAIT_S, "the reservation to expire"
    )
    assert asked(timedelta(minutes=10)) == Granted(1, State(100, 0, 60))


@pytest.mark.parametrize("clients", [2, 8])
def test_clients_that_race_never_exceed_it(
    redis_url: str, redis_client: Redis, clients: int
) -> None:
    budget = 100_000
    opened(redis_client, budget)
    lot = random.Random(clients)
    costs: list[int] = []
    seen: list[State] = []

    async def worker() -> None:
        async with AsyncRedis.from_url(redis_url) as redis:
            budgets = Budgets(redis, keep=KEEP)
            settled: list[Settlement] = []
            while True:
                asked = [lot.randint(1, 900) for _ in range(lot.randint(1, 8))]
                granted = await reserve(budgets, asked, settled)
                seen.append(granted.state)
                settled = [
                    Settlement(one, lot.randint(0, most))
                    for one, most in zip(granted.reservations, asked, strict=False)
                ]
                costs.extend(one.micros for one in settled)
                if not granted.reservations and not granted.state.covers(asked[0]):
                    return

    async def race() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(worker())

    asyncio.run(race())
    assert max(one.spent_micros + one.reserved_micros for one in seen) <= budget
    assert state(redis_client, RUN) == State(budget, sum(costs), 0)
    # It is used up as well: no more is left than the largest call asks for.
    assert sum(costs) > budget - 900
    assert redis_client.zcard(keys.budget_reservations(RUN)) == 0


def test_what_nobody_settles_is_charged_in_full(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)
    with_budgets(redis_url, lambda budgets: reserve(budgets, [40]), open_for=timedelta(seconds=1))
    assert state(redis_client, RUN) == State(100, 0, 40)
    wait_until(
        lambda: opened(redis_client, 100) == State(100, 40, 0), WAIT_S, "the reservation to expire"
    )


def test_what_was_charged_in_full_is_corrected_when_it_is_settled_after_all(
    redis_url: str, redis_client: Redis
) -> None:
    opened(redis_client, 100)
    slow = with_budgets(
        redis_url, lambda budgets: reserve(budgets, [40]), open_for=timedelta(seconds=1)
    )
    wait_until(
        lambda: opened(redis_client, 100) == State(100, 40, 0), WAIT_S, "the reservation to expire"
    )
    late = Settlement(slow.reservations[0], 1)
    for _ in range(2):
        settled = with_budgets(redis_url, lambda budgets: budgets.settle(RUN, [late]))
        assert settled == State(100, 1, 0)


def test_going_on_with_a_larger_budget_loses_nothing(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)
    granted = with_budgets(redis_url, lambda budgets: reserve(budgets, [60, 30]))
    settled = Settlement(granted.reservations[0], 55)
    with_budgets(redis_url, lambda budgets: budgets.settle(RUN, [settled]))
    assert opened(redis_client, 300, spent=20) == State(300, 55, 30)


def test_a_budget_can_be_lowered(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 300)
    granted = with_budgets(redis_url, lambda budgets: reserve(budgets, [100, 100]))
    assert opened(redis_client, 150) == State(150, 0, 200)
    settled = [Settlement(one, 60) for one in granted.reservations]
    more = with_budgets(redis_url, lambda budgets: reserve(budgets, [30, 1], settled))
    assert more.state == State(150, 120, 30)


@pytest.mark.parametrize("run_id", [RUN, None])
def test_a_run_is_cancelled_until_its_command_opens_the_budget_again(
    redis_url: str, redis_client: Redis, run_id: str | None
) -> None:
    async def is_cancelled(budgets: Budgets) -> bool:
        return (await budgets.reserve(RUN, ())).state.is_cancelled

    opened(redis_client, 100)
    assert not with_budgets(redis_url, is_cancelled)
    redis_client.set(keys.cancelled(run_id), repr(now_s(redis_client)))
    for _ in range(2):
        assert with_budgets(redis_url, is_cancelled)
    opened(redis_client, 100)
    for _ in range(2):
        assert not with_budgets(redis_url, is_cancelled)


@pytest.mark.parametrize("spent", [0, 70])
def test_without_an_open_budget_nothing_is_granted(
    redis_url: str, redis_client: Redis, spent: int
) -> None:
    assert with_budgets(redis_url, lambda budgets: reserve(budgets, [0])).reservations == ()
    opened(redis_client, 100)
    redis_client.flushall()
    lost = with_budgets(redis_url, lambda budgets: reserve(budgets, [31]))
    assert lost.reservations == ()
    assert lost.state == State(None, 0, 0) == state(redis_client, RUN)
    assert not lost.state.covers(0)
    # The run's ledger knows what its outcomes cost.
    opened(redis_client, 100, spent=spent)
    again = with_budgets(redis_url, lambda budgets: reserve(budgets, [31]))
    assert len(again.reservations) == (0 if spent else 1)


def test_a_budget_of_nothing_grants_what_costs_nothing(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 0)
    granted = with_budgets(redis_url, lambda budgets: reserve(budgets, [0, 1]))
    assert len(granted.reservations) == 1


def test_runs_have_budgets_of_their_own(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 10)
    open_budget(redis_client, "実行", 100, spent_micros=0, keep=KEEP)
    granted = with_budgets(redis_url, lambda budgets: reserve(budgets, [100], run_id="実行"))
    assert granted.state == State(100, 0, 100)
    assert state(redis_client, RUN) == State(10, 0, 0)


def test_amounts_beyond_what_a_float_prints_are_exact(redis_url: str, redis_client: Redis) -> None:
    much = 2**53 - 1
    opened(redis_client, much)
    granted = with_budgets(redis_url, lambda budgets: reserve(budgets, [much - 1]))
    assert granted.state == State(much, 0, much - 1) == state(redis_client, RUN)


def test_it_is_forgotten_when_its_run_is(redis_url: str, redis_client: Redis) -> None:
    opened(redis_client, 100)
    with_budgets(redis_url, lambda budgets: reserve(budgets, [1]))
    for key in (keys.budget(RUN), keys.budget_reservations(RUN)):
        assert 0 < redis_client.ttl(key) <= KEEP.total_seconds()


def test_redis_away_is_said_so(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with server.client() as redis:
        opened(redis, 100)
        server.kill()
        with pytest.raises(StoreUnavailable, match="Redis does not answer"):
            opened(redis, 200)
        with pytest.raises(StoreUnavailable, match="Redis does not answer"):
            state(redis, RUN)
    with pytest.raises(StoreUnavailable, match="Redis does not answer"):
        with_budgets(server.url, lambda budgets: reserve(budgets, [1]))
