from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import pytest

from qaworker.engine.recorder import LARGEST_WRITE, Recorder
from qaworker.models import Outcome
from qaworker.store.outcomes import Notice
from tests.support.virtual_time import now_s, run
from tests.unit.engine.fakes import FakeRedis, FakeStore


def notice(number: int) -> Notice:
    digest = f"d{number}"
    return Notice(digest, "run", Outcome(digest=digest, kind="ok"))


class Recording:
    """A recorder that writes to a Redis in memory while the context is open."""

    def __init__(self, store: type[FakeStore] = FakeStore) -> None:
        self.redis = FakeRedis()
        self.recorder = Recorder(store(self.redis))

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.recorder.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    @property
    def written(self) -> list[list[str]]:
        return [[n.digest for n in notices] for notices in self.redis.writes]


def test_a_notice_is_in_redis_when_record_returns() -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            await recording.recorder.record(notice(1))
            assert recording.written == [["d1"]]

    run(scenario())


def test_nothing_to_record_is_no_write() -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            await recording.recorder.record()
            assert recording.written == []
            assert now_s() == 0

    run(scenario())


def test_notices_that_come_during_a_write_share_the_next_in_order() -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            first = asyncio.create_task(recording.recorder.record(notice(0)))
            await asyncio.sleep(0.0005)
            rest = [asyncio.create_task(recording.recorder.record(notice(n))) for n in (3, 1, 2)]
            await asyncio.gather(first, *rest)
            assert recording.written == [["d0"], ["d3", "d1", "d2"]]

    run(scenario())


def test_many_notices_are_written_in_bounded_parts() -> None:
    async def scenario() -> list[int]:
        async with Recording() as recording:
            await recording.recorder.record(*map(notice, range(2 * LARGEST_WRITE + 1)))
            return [len(digests) for digests in recording.written]

    assert run(scenario()) == [LARGEST_WRITE, LARGEST_WRITE, 1]


def test_answers_are_kept_while_redis_is_away_and_written_when_it_is_back() -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            recording.redis.is_away = True
            recorded = asyncio.create_task(recording.recorder.record(notice(1), notice(2)))
            await asyncio.sleep(3600)
            assert not recorded.done()
            recording.redis.is_away = False
            await recorded
            assert recording.written == [["d1", "d2"]]

    run(scenario())


@pytest.mark.parametrize("is_away", [False, True])
def test_a_waiter_that_is_cancelled_loses_no_answer(is_away: bool) -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            recording.redis.is_away = is_away
            cancelled = asyncio.create_task(recording.recorder.record(notice(1)))
            await asyncio.sleep(0.0005)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            recording.redis.is_away = False
            await recording.recorder.record(notice(2))
            assert recording.redis.outcomes.keys() == {"d1", "d2"}

    run(scenario())


def test_what_cannot_be_written_reaches_its_waiter_and_nobody_else() -> None:
    class Picky(FakeStore):
        async def write(self, notices: Sequence[Notice]) -> None:
            if any(one.digest == "d1" for one in notices):
                raise ValueError("a lone surrogate")
            await super().write(notices)

    async def scenario() -> None:
        async with Recording(Picky) as recording:
            waiters = [recording.recorder.record(notice(number)) for number in range(3)]
            ends = await asyncio.gather(*waiters, return_exceptions=True)
            assert [type(end) for end in ends] == [type(None), ValueError, type(None)]
            await recording.recorder.record(notice(3))
            assert recording.redis.outcomes.keys() == {"d0", "d2", "d3"}

    run(scenario())
