"""Small and large calls of several processes: none starves, and together they use the whole limit.

The script runs in a real Redis, on virtual time; the provider is strict.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker.engine.turnstile import Turnstile
from qaworker.limits.limiter import Limiter
from qaworker.limits.rates import RateTable
from qaworker.simulator.buckets import Gate
from qaworker.simulator.buckets import Limits as StrictLimits
from tests.support.virtual_time import now_s, run

MODEL = "gpt-5-mini"
LATENCY_S = 0.5
WARM_UP_S = 3.0
MEASURED_S = 30.0


@dataclass(frozen=True)
class Kind:
    """Calls that reserve and use so many tokens."""

    tokens: int
    used: int


@dataclass
class Process:
    """Whose callers each make one of these calls after the other, of any kind."""

    kinds: Sequence[Kind]
    callers: int
    weights: Sequence[float] | None = None
    passed_s: list[float] = field(default_factory=list)

    @property
    def longest_gap_s(self) -> float:
        """Between two of its calls: somebody always waits."""
        moments = [WARM_UP_S, *self.passed_s, WARM_UP_S + MEASURED_S]
        return max(after - before for before, after in pairwise(moments))


class VirtualRedis:
    """The limiter's script, told what time it is; asking takes a moment."""

    def __init__(self, redis: Redis, randomly: random.Random) -> None:
        self._redis: Any = redis
        self._randomly = randomly

    def register_script(self, source: str) -> Callable[..., Any]:
        clock = 'redis.call("TIME")'
        assert source.count(clock) == 1
        script = self._redis.register_script(source.replace(clock, "cjson.decode(ARGV[2])"))

        async def ask(*, keys: list[str], args: list[str]) -> Any:
            await asyncio.sleep(self._randomly.uniform(0.0002, 0.002))
            seconds, part = divmod(1_000_000 + now_s(), 1)
            answer = script(keys=keys, args=[*args, json.dumps([seconds, part * 1e6])])
            await asyncio.sleep(self._randomly.uniform(0.0002, 0.002))
            return answer

        return ask


async def drive(redis: Redis, tpm: float, processes: Sequence[Process]) -> float:
    """Call as fast as the turnstiles allow; returns the share of the limit that was used."""
    randomly = random.Random(1)
    gate = Gate(StrictLimits(tpm=tpm), now_s)
    used = 0

    async def call(process: Process, turnstile: Turnstile) -> None:
        nonlocal used
        while True:
            kind = randomly.choices(process.kinds, process.weights)[0]
            with await turnstile.enter(MODEL, kind.tokens) as passage:
                is_counted = WARM_UP_S < now_s() < WARM_UP_S + MEASURED_S
                if is_counted:
                    process.passed_s.append(now_s())
                await asyncio.sleep(randomly.uniform(0, 0.02))
                gate.admit(kind.tokens)
                await asyncio.sleep(LATENCY_S * randomly.uniform(0.5, 1.5))
                gate.settle(kind.tokens, kind.used)
                used += kind.used if is_counted else 0
                await asyncio.sleep(randomly.uniform(0, 0.02))
                passage.settle(kind.used)

    async with AsyncExitStack() as stack:
        calls = []
        for process in processes:
            client = cast("AsyncRedis", VirtualRedis(redis, randomly))
            limiter = Limiter(client, "0badcafe", RateTable(tpm=tpm))
            turnstile = await stack.enter_async_context(Turnstile(limiter, calls_in_flight=512))
            calls += [asyncio.create_task(call(process, turnstile)) for _ in range(process.callers)]
        await asyncio.sleep(WARM_UP_S + MEASURED_S + 2 * LATENCY_S)
        for task in calls:
            task.cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        # Whoever is refused by the provider ends with that.
        assert {type(error) for error in ended} == {asyncio.CancelledError}
    return used / MEASURED_S * 60 / tpm


def most_wait_s(tpm: float, processes: Sequence[Process]) -> float:
    """Two turns of each process's largest call with the debt before it, and one's own patience."""
    turns_s = sum(max(kind.tokens for kind in process.kinds) / tpm * 60 for process in processes)
    return 2.0 + turns_s + 0.4 * len(processes)


TINY, SMALLISH = Kind(300, 250), Kind(3_000, 2_500)
SMALL, MEDIUM, LARGE = Kind(1_640, 1_500), Kind(10_000, 8_000), Kind(18_000, 14_000)
BEYOND_A_SECOND = Kind(5_160, 4_500)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tpm", "processes"),
    [
        pytest.param(2e6, [([LARGE], 4), ([SMALL], 200)], id="large-small"),
        pytest.param(2e6, [([MEDIUM], 20), ([SMALL], 200)], id="medium-small"),
        pytest.param(2e6, [([SMALLISH], 50), ([TINY], 400)], id="smallish-tiny"),
        pytest.param(2e5, [([BEYOND_A_SECOND], 4), ([SMALL], 60)], id="beyond-a-second"),
        pytest.param(2e6, [([LARGE], 4)] + [([SMALL], 80)] * 3, id="one-large-three-small"),
        pytest.param(2e6, [([LARGE], 4)] * 2 + [([SMALL], 80)] * 2, id="two-large-two-small"),
        pytest.param(2e6, [([SMALL, LARGE], 60, [98, 2])] * 2, id="two-mixed"),
        pytest.param(2e6, [([SMALL, LARGE], 60, [98, 2])] * 4, id="four-mixed"),
    ],
)
def test_large_and_small_calls_starve_nobody_and_use_the_whole_limit(
    redis_client: Redis, tpm: float, processes: Sequence[tuple[Any, ...]]
) -> None:
    callers = [Process(*process) for process in processes]
    share = run(drive(redis_client, tpm, callers))
    for process in callers:
        assert process.longest_gap_s < most_wait_s(tpm, callers)
    assert 0.95 < share < 1.01


@pytest.mark.slow
def test_of_many_processes_with_small_calls_none_waits_for_long(redis_client: Redis) -> None:
    processes = [Process([Kind(600, 600)], 20) for _ in range(32)]
    share = run(drive(redis_client, 2e6, processes))
    assert max(process.longest_gap_s for process in processes) < 2
    assert share > 0.985
