"""Turnstiles of several processes on one Redis, against a provider that forgives nothing."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest
from redis.asyncio import Redis as AsyncRedis

from qaworker.engine.turnstile import Turnstile
from qaworker.limits.limiter import Limiter
from qaworker.limits.rates import RateTable
from qaworker.simulator.buckets import Gate
from qaworker.simulator.buckets import Limits as StrictLimits
from qaworker.simulator.replies import Refused

MODEL = "gpt-5-mini"
PROCESSES = 2
CALLERS = 300
WARM_UP_S = 1.0
MEASURED_S = 4.0


@dataclass
class Provider:
    """One second's capacity, what a call reserves is taken at its arrival, and answers take time."""

    limits: StrictLimits
    latency_s: float
    refused: int = 0
    answered: list[tuple[float, int]] = field(default_factory=list)
    """When a call arrived, and the tokens it used in the end."""

    def __post_init__(self) -> None:
        self._gate = Gate(self.limits, time.monotonic)

    async def answer(self, tokens: int, used: int) -> bool:
        await asyncio.sleep(random.uniform(0, 0.05))  # the way there
        try:
            self._gate.admit(tokens)
        except Refused:
            self.refused += 1
            return False
        arrived_s = time.monotonic()
        await asyncio.sleep(self.latency_s * random.uniform(0.5, 1.5))
        self._gate.settle(tokens, used)
        self.answered.append((arrived_s, used))
        await asyncio.sleep(random.uniform(0, 0.05))  # the way back
        return True


async def drive(url: str, provider: Provider, *, most_tokens: int) -> float:
    """Call as fast as the turnstiles allow; returns when the measured span began."""

    async def call(turnstile: Turnstile) -> None:
        while True:
            tokens = random.randint(most_tokens // 5, most_tokens)
            used = int(tokens * random.uniform(0.5, 1))
            with await turnstile.enter(MODEL, tokens) as passage:
                if await provider.answer(tokens, used):
                    passage.settle(used)

    async with AsyncExitStack() as stack:
        rates = RateTable(rpm=provider.limits.rpm, tpm=provider.limits.tpm)
        turnstiles = []
        for _ in range(PROCESSES):
            redis = await stack.enter_async_context(AsyncRedis.from_url(url))
            limiter = Limiter(redis, "0badcafe", rates)
            turnstile = await stack.enter_async_context(Turnstile(limiter, calls_in_flight=512))
            turnstiles.append(turnstile)
        calls = [
            asyncio.create_task(call(turnstile)) for turnstile in turnstiles for _ in range(CALLERS)
        ]
        await asyncio.sleep(WARM_UP_S)
        begun_s = time.monotonic()
        await asyncio.sleep(MEASURED_S)
        for task in calls:
            task.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, asyncio.CancelledError) for error in ended)
    return begun_s


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rpm", "tpm", "latency_s", "most_tokens"),
    [
        (3_500, 0, 0.4, 100),
        (18_000, 0, 0.4, 100),
        (0, 2_000_000, 0.2, 1500),
        (3_500, 1_500_000, 0.2, 1500),
    ],
)
def test_the_whole_of_the_limit_is_used_and_never_more(
    redis_url: str, rpm: float, tpm: float, latency_s: float, most_tokens: int
) -> None:
    provider = Provider(StrictLimits(rpm, tpm), latency_s)
    begun_s = asyncio.run(drive(redis_url, provider, most_tokens=most_tokens))
    assert provider.refused == 0
    used = [
        tokens for at_s, tokens in provider.answered if begun_s < at_s < begun_s + MEASURED_S - 0.8
    ]
    span_s = MEASURED_S - 0.8
    share = max(
        len(used) / span_s * 60 / rpm if rpm else 0,
        sum(used) / span_s * 60 / tpm if tpm else 0,
    )
    assert 0.95 < share < 1.05
