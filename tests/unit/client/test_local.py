from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from qaworker.client.local import LocalSender
from qaworker.engine.engine import Engine, Limits, running
from qaworker.engine.thread import EngineThread
from qaworker.errors import HaltError
from tests.support.waiting import wait_until
from tests.unit.engine.fakes import FakeGenerator, FakeRedis, FakeStore, batch, chunk, shared

LIMITS = Limits(calls_in_flight=4, call_timeout_s=100, soft_limit_s=270, hard_limit_s=300)
WAIT_S = 10.0


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator(latency_s=lambda _: 0.0)


@pytest.fixture
def engine(generator: FakeGenerator) -> Iterator[EngineThread]:
    @asynccontextmanager
    async def open_engine() -> AsyncIterator[Engine]:
        async with running(generator, FakeStore(FakeRedis()), shared(), LIMITS) as opened:
            yield opened

    thread = EngineThread(open_engine)
    thread.start()
    yield thread
    thread.close()


def test_batches_under_way_take_room_until_they_end(
    engine: EngineThread, generator: FakeGenerator
) -> None:
    generator.latency_s = lambda call: 3600 if call.ids == ["en-1"] else 0
    sender = LocalSender(engine, batches=2)
    slow, quick = batch(chunk(1)), batch(chunk(2, "ja"))
    sender.send(slow, 1.0)
    sender.send(quick, 1.0)
    wait_until(lambda: sender.room() == 1, WAIT_S, "the quick batch to end")
    sent = [(slow.digests[0], 1.0), (quick.digests[0], 1.0)]
    assert sender.lost(sent) == [quick.digests[0]]


def test_waiting_returns_when_nothing_is_under_way(engine: EngineThread) -> None:
    sender = LocalSender(engine, batches=2)
    for number in range(2):
        sender.send(batch(chunk(number)), 1.0)
    sender.wait()
    assert sender.room() == 2
    assert engine.chunks_done == 2


def test_a_broken_account_ends_the_run(engine: EngineThread, generator: FakeGenerator) -> None:
    generator.reply = lambda _: HaltError("no quota")
    sender = LocalSender(engine, batches=2)
    sender.send(batch(chunk(1)), 1.0)
    wait_until(lambda: engine.halted_by, WAIT_S, "the account to be found broken")
    with pytest.raises(HaltError, match="no quota"):
        sender.room()
    engine.drain()
    sender.wait()
