"""The limiter's script in a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys
from qaworker.errors import ChunkTooLarge, StoreUnavailable
from qaworker.limits.limiter import (
    BURST_MS,
    HEADROOM,
    HORIZON_S,
    MOST_RESERVATIONS,
    Exchanged,
    Grant,
    Limiter,
)
from qaworker.limits.rates import Limits, RateTable
from qaworker.limits.states import Kind, LimiterState, limiter_states
from tests.support.redis_server import RedisServer

T = TypeVar("T")

ACCOUNT = "0badcafe"
MODEL = "gpt-5-mini"
Scenario = Callable[..., Awaitable[T]]


def limits(rpm: float = 0, tpm: float = 0, *, by_hand: bool = False) -> RateTable:
    """Of every model; from a file it is a ceiling, as what is set by hand is."""
    if by_hand:
        return RateTable(rpm=rpm, tpm=tpm)
    return _Table(rpm, tpm)


class _Table(RateTable):
    """Limits nobody set by hand."""

    def __init__(self, rpm: float, tpm: float) -> None:
        super().__init__(from_file={"default": Limits(rpm=float(rpm), tpm=float(tpm))})

    def of(self, model: str) -> Any:
        rates = super().of(model)
        return type(rates)(rates.rpm, rates.tpm, "table", "table")


def play(url: str, scenario: Scenario[T], *tables: RateTable, **options: Any) -> T:
    """Run a scenario with one limiter a table, each as in a process of its own."""

    async def host() -> T:
        async with AsyncRedis.from_url(url) as redis:
            return await scenario(*(Limiter(redis, ACCOUNT, table, **options) for table in tables))

    return asyncio.run(host())


def grants(exchanged: Exchanged) -> list[Grant]:
    return [answer for answer in exchanged.answers if isinstance(answer, Grant)]


async def reserve(limiter: Limiter, *tokens: int, model: str = MODEL) -> list[Grant]:
    return grants(await limiter.exchange(model, (), tokens))


async def refused_wait_s(limiter: Limiter, tokens: int = 1, model: str = MODEL) -> float:
    wait_s = (await limiter.exchange(model, (), [tokens])).refused_wait_s
    assert wait_s is not None
    return wait_s


def elapse(redis: Redis, seconds: float, model: str = MODEL) -> None:
    """Let the script believe that so much time has passed."""
    moments = ("at", "slowed_at", "paused_until", "waits_since", "waits_until")
    reported = ("requests_reported_at", "tokens_reported_at")
    for moment in moments + reported:
        if redis.hget(keys.limiter(ACCOUNT, model), moment):
            redis.hincrbyfloat(keys.limiter(ACCOUNT, model), moment, -seconds * 1000)
    stored: Any = redis.hget(keys.limiter(ACCOUNT, model), "claims")
    claims = json.loads(stored)
    for claim in claims.values():
        for moment in ("since", "first_at", "gone_at"):
            claim[moment] -= seconds * 1000
    redis.hset(keys.limiter(ACCOUNT, model), "claims", json.dumps(claims))
    opened: Any = redis.zrange(keys.limiter_reservations(ACCOUNT, model), 0, -1)
    for name in opened:
        redis.zincrby(keys.limiter_reservations(ACCOUNT, model), -seconds * 1000, name)


def state(redis: Redis, model: str = MODEL) -> LimiterState:
    return next(one for one in limiter_states(redis) if one.model == model)


def test_a_burst_may_begin_at_once_the_rest_one_after_the_other(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        exchanged = await limiter.exchange(MODEL, (), [1] * MOST_RESERVATIONS)
        waits_s = [grant.wait_s for grant in grants(exchanged)]
        burst = int(6000 / 60 * BURST_MS / 1000 * HEADROOM)
        assert waits_s[:burst] == [0] * burst
        assert waits_s == sorted(waits_s)
        pace_s = 60 / 6000 / HEADROOM
        assert len(waits_s) - burst == pytest.approx(HORIZON_S / pace_s, abs=1.01)
        assert waits_s[-1] <= HORIZON_S
        refused_s = exchanged.refused_wait_s
        assert refused_s == pytest.approx(waits_s[-1] + pace_s, abs=0.002)
        assert refused_s is not None
        assert refused_s > HORIZON_S

    play(redis_url, scenario, limits(rpm=6000))


def test_who_is_refused_takes_nothing(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        assert len(await reserve(limiter, 1, 1, 1)) == 1
        waits_s = [await refused_wait_s(limiter) for _ in range(20)]
        assert waits_s == sorted(waits_s, reverse=True)
        assert 0.5 < waits_s[-1] <= waits_s[0] <= 1 / HEADROOM

    play(redis_url, scenario, limits(rpm=60))


def test_nobody_is_overtaken_by_a_smaller_one(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 100)
        exchanged = await limiter.exchange(MODEL, (), [100, 1])
        assert exchanged.answers == ()

    play(redis_url, scenario, limits(tpm=6000))


def test_both_limits_are_kept_and_neither_is_taken_alone(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        assert len(await reserve(limiter, 400, 400)) == 1
        requests = state(redis_client).requests.available
        # Tokens are short: a debt of 390, at 100 a second.
        assert await refused_wait_s(limiter, 400) == pytest.approx(4, abs=0.2)
        assert state(redis_client).requests.available >= requests
        elapse(redis_client, 10)
        # Now it is requests: one at once, others at 10 a second.
        assert len(await reserve(limiter, *[0] * 10)) == 3
        assert state(redis_client).tokens.available == pytest.approx(10, abs=0.2)

    play(redis_url, scenario, limits(rpm=600, tpm=6000))


def test_a_cost_beyond_the_bucket_leaves_a_debt_for_the_next(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        assert (await reserve(limiter, 6000))[0].wait_s == 0
        assert await refused_wait_s(limiter, 40) == pytest.approx(60 / HEADROOM, abs=0.2)
        elapse(redis_client, 60 / HEADROOM - 0.2)
        assert (await reserve(limiter, 40))[0].wait_s == pytest.approx(0.2, abs=0.1)

    play(redis_url, scenario, limits(tpm=6000))


def test_what_is_large_is_not_taken_ahead(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 6000)
        elapse(redis_client, 60 / HEADROOM - 0.2)
        # Half a second's tokens are 50.
        assert 0.1 < await refused_wait_s(limiter, 51) <= 0.2
        assert (await reserve(limiter, 20))[0].wait_s > 0.1

    play(redis_url, scenario, limits(tpm=6000))


@pytest.mark.parametrize(("tokens", "late_s"), [(75, 0.0), (90, 0.06), (6000, 0.06)])
def test_what_takes_all_the_provider_has_begins_when_calls_on_their_way_have_arrived(
    redis_url: str, redis_client: Redis, tokens: int, late_s: float
) -> None:
    async def scenario(limiter: Limiter) -> None:
        assert (await reserve(limiter, tokens))[0].wait_s == 0
        elapse(redis_client, tokens / 100 / HEADROOM)
        assert (await reserve(limiter, tokens))[0].wait_s == pytest.approx(late_s, abs=0.03)
        elapse(redis_client, tokens / 100 / HEADROOM + 0.1)
        assert (await reserve(limiter, tokens))[0].wait_s == 0

    play(redis_url, scenario, limits(tpm=6000))


LARGE, SMALL = 60, 2


async def refuse(redis: Redis, patient: Limiter, other: Limiter) -> None:
    """Let one be refused until its patience is at an end; small calls would be let through."""
    (grant,) = await reserve(other, LARGE)
    await refused_wait_s(patient, LARGE)
    # It used more than it had reserved: a debt of 290.
    await other.exchange(MODEL, [grant.used(300)], ())
    for _ in range(13):
        await refused_wait_s(patient, LARGE)
        elapse(redis, 0.21)


def test_who_waits_too_long_goes_before_all_others(redis_url: str, redis_client: Redis) -> None:
    async def scenario(large: Limiter, small: Limiter) -> None:
        await refuse(redis_client, large, small)
        # They would be let through but for him, and are told when he has passed and is paid back.
        assert LARGE / 100 - 0.1 < await refused_wait_s(small, SMALL) < LARGE / 100 + 0.4
        # He asks again and again: what comes back meanwhile is his.
        assert 0 < await refused_wait_s(large, LARGE) <= 0.05
        elapse(redis_client, 0.3)
        assert len(await reserve(large, LARGE)) == 1
        # Then it is their turn.
        assert await refused_wait_s(large, LARGE) == pytest.approx(LARGE / 100, abs=0.05)
        elapse(redis_client, 0.4)
        assert len(await reserve(small, SMALL)) == 1

    play(redis_url, scenario, *[limits(tpm=6000)] * 2)


def test_of_several_who_wait_too_long_the_first_goes_first(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(first: Limiter, second: Limiter, other: Limiter) -> None:
        (grant,) = await reserve(other, LARGE)
        await refused_wait_s(first, LARGE)
        elapse(redis_client, 0.05)
        await refused_wait_s(second, LARGE)
        # It used more than it had reserved: a debt of 290.
        await other.exchange(MODEL, [grant.used(300)], ())
        for step_s in [0.21] * 13 + [0.3]:
            await refused_wait_s(second, LARGE)
            await refused_wait_s(first, LARGE)
            elapse(redis_client, step_s)
        assert await refused_wait_s(second, SMALL) > 0
        assert len(await reserve(first, LARGE)) == 1
        assert await refused_wait_s(second, SMALL) > 0
        elapse(redis_client, 0.4)
        assert await refused_wait_s(other, SMALL) > 0
        assert len(await reserve(second, SMALL)) == 1
        assert len(await reserve(other, SMALL)) == 1

    play(redis_url, scenario, *[limits(tpm=6000)] * 3)


def test_who_goes_away_keeps_nobody_waiting_for_long(redis_url: str, redis_client: Redis) -> None:
    async def scenario(large: Limiter, small: Limiter) -> None:
        await refuse(redis_client, large, small)
        await refused_wait_s(large, LARGE)
        assert await refused_wait_s(small, SMALL) > 0
        elapse(redis_client, 0.6)
        assert (await reserve(small, SMALL))[0].wait_s == 0

    play(redis_url, scenario, *[limits(tpm=6000)] * 2)


def test_a_pause_is_asked_about_no_more_often_by_who_goes_first(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(large: Limiter, small: Limiter) -> None:
        await refuse(redis_client, large, small)
        await small.pause(MODEL, 60)
        assert await refused_wait_s(large, LARGE) > 5

    play(redis_url, scenario, *[limits(tpm=6000)] * 2)


def test_what_was_not_used_is_given_back_once(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        (grant,) = await reserve(limiter, 1000)
        settlement = grant.used(700)
        before = state(redis_client).tokens.available
        await limiter.exchange(MODEL, [settlement, settlement], ())
        await limiter.exchange(MODEL, [settlement], ())
        gained = state(redis_client).tokens.available - before
        assert gained == pytest.approx(300, abs=20)
        assert state(redis_client).open_reservations == 0

    play(redis_url, scenario, limits(tpm=6000))


def test_what_comes_back_counts_for_those_in_the_same_exchange(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        (grant,) = await reserve(limiter, 1000)
        assert await refused_wait_s(limiter, 5) > 9
        exchanged = await limiter.exchange(MODEL, [grant.used(0)], [5])
        assert len(grants(exchanged)) == 1

    play(redis_url, scenario, limits(tpm=6000))


def test_what_comes_back_fills_no_bucket_beyond_its_size(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        (grant,) = await reserve(limiter, 1000)
        elapse(redis_client, 30)
        await limiter.exchange(MODEL, [grant.used(0)], ())
        burst = 6000 / 60 * BURST_MS / 1000 * HEADROOM
        assert state(redis_client).tokens.available == pytest.approx(burst)

    play(redis_url, scenario, limits(tpm=6000))


def test_more_than_was_reserved_is_charged(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        (grant,) = await reserve(limiter, 5)
        await limiter.exchange(MODEL, [grant.used(505)], ())
        assert state(redis_client).tokens.available == pytest.approx(-495, abs=10)

    play(redis_url, scenario, limits(tpm=6000))


def test_a_call_that_was_never_made_gives_its_request_back(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        (grant,) = await reserve(limiter, 1)
        assert await refused_wait_s(limiter) > HORIZON_S
        exchanged = await limiter.exchange(MODEL, [grant.unused()], [1])
        assert [one.wait_s for one in grants(exchanged)] == [0.06]
        # Whereas one that was answered has used it.
        answered = await limiter.exchange(MODEL, [grants(exchanged)[0].used(1)], [1])
        assert answered.refused_wait_s is not None

    play(redis_url, scenario, limits(rpm=60))


def test_what_a_dead_worker_reserved_is_charged_in_full(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        (grant,) = await reserve(limiter, 6000)
        assert state(redis_client).open_reservations == 1
        elapse(redis_client, 50)
        before = state(redis_client).tokens.available
        assert before == pytest.approx(-1030, abs=20)
        await limiter.exchange(MODEL, [grant.used(0)], ())
        assert state(redis_client).open_reservations == 0
        assert state(redis_client).tokens.available == pytest.approx(before, abs=20)

    play(redis_url, scenario, limits(tpm=6000), longest_call_s=10)


def test_processes_share_one_limit_whatever_their_clocks_say(redis_url: str) -> None:
    async def scenario(early: Limiter, late: Limiter) -> None:
        first = await reserve(early, *[1] * 20)
        second = await reserve(late, *[1] * 20)
        assert len(first) == 20
        assert second[0].wait_s >= first[-1].wait_s > 0

    async def host() -> None:
        async with AsyncRedis.from_url(redis_url) as redis:
            table = limits(rpm=6000)
            await scenario(
                Limiter(redis, ACCOUNT, table, clock=lambda: 0.0),
                Limiter(redis, ACCOUNT, table, clock=lambda: 300.0),
            )

    asyncio.run(host())


def test_models_and_accounts_have_limits_of_their_own(redis_url: str) -> None:
    async def host() -> None:
        async with AsyncRedis.from_url(redis_url) as redis:
            one, other = (Limiter(redis, name, limits(rpm=60)) for name in ("1", "2"))
            for limiter, model in ((one, "a"), (one, "b"), (other, "a")):
                assert (await reserve(limiter, 1, model=model))[0].wait_s == 0

    asyncio.run(host())


def test_without_limits_everything_begins_at_once(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        for _ in range(20):
            granted = await reserve(limiter, *[1_000_000] * MOST_RESERVATIONS)
            assert [grant.wait_s for grant in granted] == [0] * MOST_RESERVATIONS
        assert state(redis_client).tokens == Kind(0, "none", 0)

    play(redis_url, scenario, RateTable())


def test_what_no_minute_admits_fails_at_once_and_alone(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        exchanged = await limiter.exchange(MODEL, (), [5, 6001, 4])
        first, second, third = exchanged.answers
        assert isinstance(first, Grant)
        assert isinstance(third, Grant)
        assert isinstance(second, ChunkTooLarge)
        assert "6001 tokens, and gpt-5-mini admits 6000 a minute" in str(second)

    play(redis_url, scenario, limits(tpm=6000))


@pytest.mark.parametrize("seconds", [0.0, 7.0])
def test_a_pause_holds_everybody_and_is_never_shortened(
    redis_url: str, redis_client: Redis, seconds: float
) -> None:
    async def scenario(one: Limiter, other: Limiter) -> None:
        await one.pause(MODEL, seconds)
        await other.pause(MODEL, 0)
        wait_s = await refused_wait_s(other)
        # A little longer than the provider asked.
        assert seconds + 0.3 < wait_s <= seconds + 0.5
        assert state(redis_client).paused_until is not None
        elapse(redis_client, seconds + 0.6)
        assert state(redis_client).paused_until is None
        assert (await reserve(other, 1))[0].wait_s == 0

    play(redis_url, scenario, limits(rpm=6000), limits(rpm=6000))


def test_no_pause_is_for_ever(redis_url: str) -> None:
    async def scenario(limiter: Limiter) -> None:
        await limiter.pause(MODEL, 86_400)
        assert 110 < await refused_wait_s(limiter) <= 120

    play(redis_url, scenario, limits(rpm=6000))


def test_a_429_without_a_known_limit_slows_everybody_down_for_a_minute(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        for _ in range(10):  # the calls that were on their way
            await limiter.pause(MODEL, 1)
        shares = [state(redis_client).share]
        for _ in range(2):
            elapse(redis_client, 30)
            await limiter.exchange(MODEL, (), ())
            shares.append(state(redis_client).share)
        assert shares == pytest.approx([0.8, 0.9, 1.0], abs=0.01)

    play(redis_url, scenario, limits(rpm=6000))


def test_one_429_after_the_other_comes_down_to_half_in_seconds(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        for _ in range(4):
            await limiter.pause(MODEL, 1)
            elapse(redis_client, 1.5)
        assert state(redis_client).share < 0.5
        elapse(redis_client, 30)
        exchanged = await limiter.exchange(MODEL, (), [1] * MOST_RESERVATIONS)
        share = state(redis_client).share
        assert share == pytest.approx(0.73, abs=0.03)
        pace_s = 60 / 6000 / HEADROOM / share
        assert len(grants(exchanged)) == pytest.approx(
            (BURST_MS / 1000 + HORIZON_S) / pace_s, abs=2
        )

    play(redis_url, scenario, limits(rpm=6000))


def test_any_number_of_429s_leaves_a_rate(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        for _ in range(30):
            await limiter.pause(MODEL, 0)
            elapse(redis_client, 1)
        assert state(redis_client).share == pytest.approx(0.06, abs=0.01)

    play(redis_url, scenario, limits(rpm=6000))


@pytest.mark.parametrize(
    ("own", "by_hand", "reported", "in_force", "said_by"),
    [
        (600, False, 300, 300, "provider"),
        (600, False, 1200, 1200, "provider"),
        (0, False, 1200, 1200, "provider"),
        (600, True, 300, 300, "provider"),
        (600, True, 1200, 600, "environment"),
        (0, True, 1200, 1200, "provider"),
    ],
)
def test_what_the_provider_reports_corrects_the_limits(
    redis_url: str,
    redis_client: Redis,
    *,
    own: float,
    by_hand: bool,
    reported: float,
    in_force: float,
    said_by: str,
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await limiter.learn(MODEL, reported, None)
        requests = state(redis_client).requests
        assert (requests.per_minute, requests.said_by) == (in_force, said_by)
        assert state(redis_client).tokens.per_minute == 600_000
        # It is remembered, and it is what is granted.
        granted = await reserve(limiter, *[1] * 50)
        allowed = in_force / 60 * (HORIZON_S + BURST_MS / 1000)
        assert len(granted) == pytest.approx(allowed, abs=1.1)
        await limiter.learn(MODEL, None, 60_000)
        assert state(redis_client).requests.per_minute == in_force
        tokens = state(redis_client).tokens
        assert (tokens.per_minute, tokens.said_by) == (60_000, "provider")

    play(redis_url, scenario, limits(own, 600_000, by_hand=by_hand))


def test_what_was_reported_long_ago_refuses_no_call_for_good(
    redis_url: str, redis_client: Redis
) -> None:
    """No call is made of which the provider could say what it admits now."""

    async def scenario(before: Limiter, after: Limiter) -> None:
        rpm = 300
        await before.learn(MODEL, rpm, 15_000)
        for _ in range(6):
            (refused,) = (await after.exchange(MODEL, (), [18_000])).answers
            assert isinstance(refused, ChunkTooLarge)
            elapse(redis_client, 110)
            # Who reports one limit says nothing of the other.
            await before.learn(MODEL, rpm := rpm + 1, None)
        elapse(redis_client, 1)
        assert len(await reserve(after, 18_000)) == 1
        tokens = state(redis_client).tokens
        assert (tokens.per_minute, tokens.said_by) == (450_000, "environment")
        assert state(redis_client).requests.said_by == "provider"

    play(redis_url, scenario, limits(tpm=30_000), limits(3_500, 450_000, by_hand=True))


def test_what_is_reported_again_and_again_stays(redis_url: str, redis_client: Redis) -> None:
    now_s = 0.0

    async def scenario(limiter: Limiter) -> None:
        nonlocal now_s
        for _ in range(20):
            await limiter.learn(MODEL, 300, 15_000)
            elapse(redis_client, 60)
            now_s += 60
            await limiter.exchange(MODEL, (), [1])
            assert state(redis_client).tokens.per_minute == 15_000

    play(redis_url, scenario, limits(3_500, 450_000, by_hand=True), clock=lambda: now_s)


@pytest.mark.parametrize(
    ("reported", "by_hand", "said"),
    [
        (None, False, "admits 6000 a minute, as the table of known limits has it"),
        (None, True, "admits 6000 a minute, as QAWORKER_TPM has it"),
        (5000, True, "admits 5000 a minute, as the provider reported"),
    ],
)
def test_who_is_refused_for_good_learns_who_says_so(
    redis_url: str, reported: float | None, *, by_hand: bool, said: str
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await limiter.learn(MODEL, None, reported)
        (refused,) = (await limiter.exchange(MODEL, (), [6001])).answers
        assert said in str(refused)

    play(redis_url, scenario, limits(600, 6000, by_hand=by_hand))


def test_when_the_limit_was_wrong_nobody_is_slower_than_the_right_one(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        await limiter.pause(MODEL, 1)
        await limiter.learn(MODEL, 3000, None)
        await limiter.pause(MODEL, 1)
        assert state(redis_client).share == 1
        elapse(redis_client, 2)
        # With the limit known, a 429 means less.
        await limiter.pause(MODEL, 1)
        assert state(redis_client).share == pytest.approx(0.95)

    play(redis_url, scenario, limits(rpm=6000))


def test_the_same_news_costs_nothing_until_redis_may_have_forgotten(
    redis_url: str, redis_client: Redis
) -> None:
    now_s = 0.0

    def scripts_run() -> int:
        statistics: Any = redis_client.info("commandstats")
        return int(statistics.get("cmdstat_evalsha", {}).get("calls", 0))

    async def scenario(limiter: Limiter) -> None:
        nonlocal now_s
        await limiter.learn(MODEL, None, None)
        await limiter.learn(MODEL, 300, 3000)
        before = scripts_run()
        for _ in range(50):
            await limiter.learn(MODEL, 300, 3000)
        assert scripts_run() == before
        await limiter.learn(MODEL, 300, 4000)
        assert scripts_run() == before + 1
        redis_client.flushall()
        now_s += 31
        await limiter.learn(MODEL, 300, 4000)
        assert state(redis_client).tokens.per_minute == 4000

    play(redis_url, scenario, limits(rpm=6000), clock=lambda: now_s)


def test_the_state_tells_since_when_somebody_waits(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        assert state(redis_client).waits_since is None
        await refused_wait_s(limiter)
        elapse(redis_client, 1)
        await refused_wait_s(limiter)
        since = state(redis_client).waits_since
        seconds, microseconds = redis_client.time()
        assert since is not None
        assert seconds + microseconds / 1e6 - since == pytest.approx(1, abs=0.3)
        # Who was refused asks again; nobody does.
        elapse(redis_client, 8)
        assert state(redis_client).waits_since is None

    play(redis_url, scenario, limits(rpm=10))


def test_the_state_lists_what_is_in_use(redis_url: str, redis_client: Redis) -> None:
    assert limiter_states(redis_client) == []

    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 100, model="ft:gpt-4o-mini:org::id")
        await reserve(limiter, 100)

    play(redis_url, scenario, limits(rpm=600, tpm=6000))
    first, second = limiter_states(redis_client)
    assert (first.account, first.model) == (ACCOUNT, "ft:gpt-4o-mini:org::id")
    assert second.model == MODEL
    assert second.requests.per_minute == 600
    assert second.requests.said_by == "table"
    assert -1 < second.requests.available < 1
    assert second.tokens.available == pytest.approx(-90, abs=10)
    assert (second.open_reservations, second.paused_until, second.share) == (1, None, 1)


@pytest.mark.parametrize("moment", ["at", "paused_until", "slowed_at"])
def test_a_clock_of_redis_that_was_set_back_stops_nobody_for_long(
    redis_url: str, redis_client: Redis, moment: str
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        redis_client.hincrbyfloat(keys.limiter(ACCOUNT, MODEL), moment, 3_600_000)
        if moment == "paused_until":
            redis_client.hset(keys.limiter(ACCOUNT, MODEL), moment, 9_999_999_999_999)
            assert await refused_wait_s(limiter) <= 120
        else:
            assert len(await reserve(limiter, 1)) == 1

    play(redis_url, scenario, limits(rpm=6000))


def test_keys_expire_when_they_are_not_used(redis_url: str, redis_client: Redis) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)

    play(redis_url, scenario, limits(rpm=60))
    names: Any = redis_client.keys("*")
    assert len(names) == 3
    for name in names:
        time_left_s: Any = redis_client.ttl(name)
        assert 0 < time_left_s <= 3600


def test_a_redis_that_forgot_the_script_is_given_it_again(
    redis_url: str, redis_client: Redis
) -> None:
    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        redis_client.script_flush()
        redis_client.flushall()
        assert len(await reserve(limiter, 1)) == 1

    play(redis_url, scenario, limits(rpm=60))


def test_nobody_is_let_through_while_redis_is_away(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()

    async def scenario(limiter: Limiter) -> None:
        await reserve(limiter, 1)
        server.stop()
        with pytest.raises(StoreUnavailable, match="REDIS_URL"):
            await reserve(limiter, 1)
        with pytest.raises(StoreUnavailable):
            await limiter.pause(MODEL, 1)
        with pytest.raises(StoreUnavailable):
            await limiter.learn(MODEL, 1, 1)
        server.start()
        assert len(await reserve(limiter, 1)) == 1

    play(server.url, scenario, limits(rpm=60))


@pytest.mark.parametrize("tokens", [[-1], [10**8], [1] * (MOST_RESERVATIONS + 1)])
def test_a_number_that_is_none_is_refused(redis_url: str, tokens: Sequence[int]) -> None:
    async def scenario(limiter: Limiter) -> None:
        with pytest.raises(ValueError, match=r"tokens|reservations"):
            await limiter.exchange(MODEL, (), tokens)

    play(redis_url, scenario, limits(rpm=60))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_a_span_or_a_limit_that_is_none_is_refused(redis_url: str, number: float) -> None:
    async def scenario(limiter: Limiter) -> None:
        with pytest.raises(ValueError, match="cannot pause"):
            await limiter.pause(MODEL, number)
        with pytest.raises(ValueError, match="is no limit"):
            await limiter.learn(MODEL, number, None)

    play(redis_url, scenario, limits(rpm=60))
