"""Workers die of chunks: in these tests with everything they have on the wire, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import count

import pytest

from qaworker.engine.batches import Batch
from qaworker.engine.engine import Limits, running
from qaworker.engine.suspects import FEW, MOST_DEATHS, Suspects
from qaworker.errors import StoreUnavailable
from qaworker.llm.generator import Answer
from qaworker.store.outcomes import CLAIM_TTL
from tests.support.virtual_time import now_s, run
from tests.unit.engine.fakes import (
    Call,
    FakeGenerator,
    FakeRedis,
    FakeStore,
    answer,
    batch,
    chunk,
    shared,
)

LIMITS = Limits(calls_in_flight=64, call_timeout_s=100, soft_limit_s=270, hard_limit_s=300)
MANY = 200


class Mortal(FakeStore):
    """From its death on nothing of the process reaches Redis."""

    is_dead = False

    async def _trip(self) -> FakeRedis:
        redis = await super()._trip()
        if self.is_dead:
            raise StoreUnavailable
        return redis


async def live(redis: FakeRedis, name: str, made: Batch, guilty: Sequence[str]) -> bool:
    """Have a process ask for a batch; returns whether it survived that."""
    store = Mortal(redis, name)
    death = asyncio.Event()

    def reply(call: Call) -> Answer:
        if any(one.chunk_id in guilty for one in call.chunks):
            store.is_dead = True
            death.set()
        return answer(call.chunks)

    generator = FakeGenerator(reply, latency_s=lambda call: 1 + len(call.ids[0]) / 10)
    async with running(generator, store, shared(), LIMITS) as engine:
        working = asyncio.create_task(engine.process(made))
        dying = asyncio.create_task(death.wait())
        await asyncio.wait((working, dying), return_when=asyncio.FIRST_COMPLETED)
        for task in (working, dying):
            task.cancel()
        await asyncio.wait((working, dying))
    return not store.is_dead


async def die_until_done(redis: FakeRedis, made: Batch, guilty: Sequence[str]) -> int:
    """Replace the process whenever it dies; returns how often it did."""
    for deaths in count():
        assert deaths < 50, "it dies for ever"
        if await live(redis, f"process-{deaths}", made, guilty):
            return deaths
        await asyncio.sleep(CLAIM_TTL.total_seconds())
    raise AssertionError


@pytest.mark.parametrize("batch_chunks", [1, 3])
@pytest.mark.parametrize("guilty", [(50,), (0, 50, 51, 199)], ids=["one", "four"])
def test_a_chunk_that_kills_its_worker_dies_alone(guilty: Sequence[int], batch_chunks: int) -> None:
    redis = FakeRedis()
    made = batch(*map(chunk, range(MANY)), batch_chunks=batch_chunks)
    deaths = run(die_until_done(redis, made, [chunk(number).chunk_id for number in guilty]))
    assert MOST_DEATHS <= deaths <= MOST_DEATHS * len(guilty)
    assert redis.outcomes.keys() == set(made.digests)
    dead = {made.digests[number] for number in guilty}
    assert {d for d, outcome in redis.outcomes.items() if outcome.kind != "ok"} == dead
    assert {redis.outcomes[digest].reason for digest in dead} == {"worker_died"}
    assert redis.takers == {}


@pytest.mark.parametrize("kills", [2, 3])
def test_what_was_there_when_a_worker_was_killed_is_answered(kills: int) -> None:
    redis = FakeRedis()
    made = batch(*map(chunk, range(MANY)))

    async def scenario() -> tuple[bool, float]:
        for kill in range(kills):
            # The first chunk to be asked does it, which is another one each time.
            await live(redis, f"process-{kill}", made, [chunk(kill).chunk_id])
            await asyncio.sleep(CLAIM_TTL.total_seconds())
        begun_s = now_s()
        return await live(redis, "survivor", made, ()), now_s() - begun_s

    survived, took_s = run(scenario())
    assert survived
    assert {outcome.kind for outcome in redis.outcomes.values()} == {"ok"}
    assert len(redis.outcomes) == MANY
    # The few that died three times are asked one after the other.
    assert took_s < 2 * (MANY / FEW + (FEW if kills > 2 else 0)) * 2


def test_a_chunk_that_is_handed_back_is_no_suspect() -> None:
    redis = FakeRedis()

    async def scenario() -> None:
        for life in range(MOST_DEATHS + 1):
            name = f"process-{life}"
            async with running(
                FakeGenerator(latency_s=lambda _: 50), FakeStore(redis, name), shared(), LIMITS
            ) as engine:
                asyncio.get_running_loop().call_later(5, engine.give_back)
                assert await engine.process(batch(chunk())) == {}

    run(scenario())
    assert not any(redis.takers.values())


def test_a_loner_waits_for_all_and_keeps_all_waiting() -> None:
    async def scenario() -> list[str]:
        suspects = Suspects(FakeStore(FakeRedis()))
        seen: list[str] = []

        async def ask(name: str, deaths: int) -> None:
            with await suspects.join([name], deaths):
                seen.append(f"{name} begins")
                await asyncio.sleep(10)
            seen.append(f"{name} ends")

        tasks = []
        for name, deaths in (("a", 0), ("b", 2), ("loner", 3), ("c", 0)):
            tasks.append(asyncio.create_task(ask(name, deaths)))
            await asyncio.sleep(0.1)
        await asyncio.gather(*tasks)
        return seen

    assert [event for event in run(scenario()) if event != "b ends"] == [
        "a begins",
        "b begins",
        "a ends",
        "loner begins",
        "loner ends",
        "c begins",
        "c ends",
    ]


def test_a_suspect_is_not_asked_before_it_is_noted_who_asks() -> None:
    redis = FakeRedis(is_away=True)

    async def scenario() -> float:
        asyncio.get_running_loop().call_later(7, lambda: setattr(redis, "is_away", False))
        with await Suspects(FakeStore(redis)).join(["d1"], 2):
            assert redis.takers["d1"] == {"me"}
            return now_s()

    assert run(scenario()) >= 7


def test_who_gives_up_waiting_keeps_nobody_waiting() -> None:
    async def scenario() -> float:
        suspects = Suspects(FakeStore(FakeRedis()))
        inside = await suspects.join(["d1"], 0)
        loner = asyncio.create_task(suspects.join(["d2"], 3))
        await asyncio.sleep(1)
        loner.cancel()
        with suppress(asyncio.CancelledError):
            await loner
        with await suspects.join(["d3"], 0):
            inside.close()
            return now_s()

    assert run(scenario()) == 1
