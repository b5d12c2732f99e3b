from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from qaworker.engine.engine import Engine, Limits, running
from qaworker.engine.thread import EngineThread
from qaworker.errors import ConfigError, HaltError
from tests.support.waiting import wait_until
from tests.unit.engine.fakes import FakeGenerator, FakeRedis, FakeStore, batch, chunk, shared

LIMITS = Limits(calls_in_flight=4, call_timeout_s=100, soft_limit_s=270, hard_limit_s=300)
WAIT_S = 10.0


@pytest.fixture
def start() -> Iterator[Callable[[FakeGenerator], EngineThread]]:
    """Starts an engine thread on a generator; it is closed after the test."""
    threads: list[EngineThread] = []

    def begin(generator: FakeGenerator) -> EngineThread:
        @asynccontextmanager
        async def open_engine() -> AsyncIterator[Engine]:
            async with running(generator, FakeStore(FakeRedis()), shared(), LIMITS) as engine:
                yield engine

        thread = EngineThread(open_engine)
        thread.start()
        threads.append(thread)
        return thread

    yield begin
    for thread in threads:
        thread.close()


def test_batches_of_any_thread_get_their_outcomes(
    start: Callable[[FakeGenerator], EngineThread],
) -> None:
    engine = start(FakeGenerator(latency_s=lambda _: 0.0))
    batches = [batch(chunk(1)), batch(chunk(2, "ja"))]
    outcomes: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda b=b: outcomes.update(engine.submit(b).result(WAIT_S)))
        for b in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert outcomes.keys() == {digest for b in batches for digest in b.digests}
    assert engine.chunks_done == 2
    assert engine.calls_in_flight == 0
    assert engine.halted_by is None


def test_a_drain_hands_back_what_waits(start: Callable[[FakeGenerator], EngineThread]) -> None:
    engine = start(FakeGenerator(lambda _: HaltError("no quota"), latency_s=lambda _: 0.0))
    future = engine.submit(batch(chunk(1)))
    wait_until(lambda: engine.halted_by, WAIT_S, "the account to be found broken")
    engine.drain()
    assert future.result(WAIT_S) == {}


def test_what_prevents_the_start_reaches_the_caller() -> None:
    def open_engine() -> AbstractAsyncContextManager[Engine]:
        raise ConfigError("no key")

    thread = EngineThread(open_engine)
    with pytest.raises(ConfigError, match="no key"):
        thread.start()
    thread.close()


def test_closing_ends_the_thread_and_may_be_repeated(
    start: Callable[[FakeGenerator], EngineThread],
) -> None:
    engine = start(FakeGenerator())
    engine.close()
    engine.close()
    assert "engine" not in {thread.name for thread in threading.enumerate()}
