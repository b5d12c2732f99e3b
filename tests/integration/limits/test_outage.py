"""A turnstile whose Redis goes away and comes back empty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from redis.asyncio import Redis as AsyncRedis

from qaworker.engine.turnstile import Turnstile
from qaworker.limits.limiter import HORIZON_S, Limiter
from qaworker.limits.rates import RateTable
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

MODEL = "gpt-5-mini"
AWAY_S = 2.5
# Of the loop, on a machine that does other things as well.
TARDINESS_S = 0.5


@pytest.mark.slow
def test_calls_stop_at_once_when_redis_goes_and_go_on_when_it_is_back(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    passed_s: list[float] = []

    async def call(turnstile: Turnstile) -> None:
        while True:
            with await turnstile.enter(MODEL, 10) as passage:
                passed_s.append(time.monotonic())
                await asyncio.sleep(0.05)
                passage.settle(5)

    async def scenario() -> None:
        async with AsyncRedis.from_url(server.url) as redis:
            limiter = Limiter(redis, "0badcafe", RateTable(rpm=6000))
            async with Turnstile(limiter, calls_in_flight=64) as turnstile:
                calls = [asyncio.create_task(call(turnstile)) for _ in range(50)]
                await asyncio.sleep(0.5)
                assert passed_s
                await asyncio.to_thread(server.stop)
                away_s = time.monotonic()
                await asyncio.sleep(AWAY_S)
                assert max(passed_s) < away_s + HORIZON_S + TARDINESS_S
                assert turnstile.waiting == len(calls)
                await asyncio.to_thread(server.start)
                back = len(passed_s)
                await asyncio.to_thread(
                    wait_until, lambda: len(passed_s) > back + 100, 10, "calls to go on"
                )
                for task in calls:
                    task.cancel()
                await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(scenario())
