from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import pytest

from qaworker.engine.background import LAST_WRITE_S
from qaworker.engine.recorder import FLUSH_S, LARGEST_WRITE, RETRY_S, Recorder
from qaworker.errors import StoreUnavailable
from qaworker.models import Outcome
from qaworker.store.counters import CHUNKS, REDELIVERIES, Counts, Portion
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
        self.counts = Counts()
        self.recorder = Recorder(store(self.redis), self.counts)

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
        async def write(self, notices: Sequence[Notice], counts: Portion) -> None:
            if any(one.digest == "d1" for one in notices):
                raise ValueError("a lone surrogate")
            await super().write(notices, counts)

    async def scenario() -> None:
        async with Recording(Picky) as recording:
            waiters = [recording.recorder.record(notice(number)) for number in range(3)]
            ends = await asyncio.gather(*waiters, return_exceptions=True)
            assert [type(end) for end in ends] == [type(None), ValueError, type(None)]
            await recording.recorder.record(notice(3))
            assert recording.redis.outcomes.keys() == {"d0", "d2", "d3"}

    run(scenario())


def test_what_was_counted_goes_with_the_outcomes() -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            recording.counts.add(REDELIVERIES)
            await recording.recorder.record(notice(1), Notice("d2", "run"))
            assert len(recording.written) == 1
            assert recording.redis.counted == {("redeliveries", ""): 1}

    run(scenario())


def test_what_was_counted_goes_alone_when_nothing_ends() -> None:
    async def scenario() -> None:
        async with Recording() as recording:
            await asyncio.sleep(10 * FLUSH_S)
            assert recording.written == []
            recording.counts.add(REDELIVERIES)
            await asyncio.sleep(2 * FLUSH_S)
            assert recording.redis.counted == {("redeliveries", ""): 1}
            assert recording.written == [[]]

    run(scenario())


def test_a_write_that_is_tried_again_is_the_same_portion() -> None:
    """Whether it arrived is not known; what is counted meanwhile goes with the next one."""
    tried: list[Portion] = []

    class Forgetful(FakeStore):
        async def write(self, notices: Sequence[Notice], counts: Portion) -> None:
            tried.append(counts)
            if len(tried) == 1:
                raise StoreUnavailable
            await super().write(notices, counts)

    async def scenario() -> None:
        async with Recording(Forgetful) as recording:
            recording.counts.add(REDELIVERIES)
            recorded = asyncio.create_task(recording.recorder.record(notice(1)))
            await asyncio.sleep(RETRY_S / 2)
            recording.counts.add(REDELIVERIES)
            await recorded
            assert tried[0] == tried[1]
            await asyncio.sleep(2 * FLUSH_S)
            assert recording.redis.counted["redeliveries", ""] == 2

    run(scenario())


def test_what_was_not_sent_is_counted_later_and_its_outcome_is_not() -> None:
    class Picky(FakeStore):
        async def write(self, notices: Sequence[Notice], counts: Portion) -> None:
            if notices:
                raise ValueError("a lone surrogate")
            await super().write(notices, counts)

    async def scenario() -> None:
        async with Recording(Picky) as recording:
            recording.counts.add(REDELIVERIES)
            with pytest.raises(ValueError, match="surrogate"):
                await recording.recorder.record(notice(1))
            await asyncio.sleep(2 * FLUSH_S)
            assert recording.redis.counted == {("redeliveries", ""): 1}

    run(scenario())


@pytest.mark.parametrize("is_away", [False, True])
def test_what_is_left_at_the_end_is_handed_over_or_lost_soon(is_away: bool) -> None:
    async def scenario() -> None:
        recording = Recording()
        recording.redis.is_away = is_away
        recording.counts.add(CHUNKS, "ok")
        await recording.recorder.close()
        assert bool(recording.redis.counted) != is_away
        assert now_s() < LAST_WRITE_S

    run(scenario())
