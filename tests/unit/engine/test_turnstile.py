"""Who passes, when, in what order, and what it costs; on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import pytest

from qaworker.engine.line import FLUSH_S, RETRY_S, Line, Passage
from qaworker.engine.turnstile import IN_USE_S, Slow, Turnstile
from qaworker.errors import ChunkTooLarge, StoreUnavailable
from qaworker.limits.limiter import (
    ASK_AGAIN_S,
    HORIZON_S,
    MOST_RESERVATIONS,
    Exchanged,
    Grant,
    Settlement,
)
from tests.support.virtual_time import now_s, run

T = TypeVar("T")

MODEL = "gpt-5-mini"
TOO_LARGE = 1_000_000
TRIP_S = 0.001


@dataclass(frozen=True)
class Asked:
    at_s: float
    model: str
    settle: tuple[Settlement, ...]
    reserve: tuple[int, ...]


@dataclass
class FakeLimiter:
    """Grants ``rates[model]`` tokens a second, as the script does with a bucket of no size."""

    rates: dict[str, float] = field(default_factory=dict)
    level: dict[str, float] = field(default_factory=dict)
    """Tokens; what is granted leaves a debt."""
    asked: list[Asked] = field(default_factory=list)
    broken_by: Exception | None = None
    _at_s: dict[str, float] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)

    async def learn(self, model: str, rpm: float | None, tpm: float | None) -> None:
        raise NotImplementedError

    async def pause(self, model: str, seconds: float) -> None:
        raise NotImplementedError

    async def exchange(
        self, model: str, settle: Sequence[Settlement], reserve: Sequence[int], /
    ) -> Exchanged:
        self.asked.append(Asked(now_s(), model, tuple(settle), tuple(reserve)))
        await asyncio.sleep(TRIP_S)
        if self.broken_by is not None:
            raise self.broken_by
        rate = self.rates.get(model, float("inf"))
        level = self.level.get(model, 0.0)
        if rate < float("inf"):
            level = min(0.0, level + (now_s() - self._at_s.get(model, 0.0)) * rate)
        level = min(0.0, level + sum(one.tokens_back for one in settle))
        answers: list[Grant | ChunkTooLarge] = []
        refused_wait_s = None
        for tokens in reserve:
            if tokens >= TOO_LARGE:
                answers.append(ChunkTooLarge())
                continue
            wait_s = -level / rate
            if wait_s > HORIZON_S:
                refused_wait_s = wait_s
                break
            answers.append(Grant(str(next(self._numbers)), tokens, wait_s))
            level -= tokens if rate < float("inf") else 0
        self.level[model], self._at_s[model] = level, now_s()
        return Exchanged(tuple(answers), refused_wait_s)

    @property
    def settled(self) -> list[Settlement]:
        return [one for asked in self.asked for one in asked.settle]

    @property
    def asked_to_reserve(self) -> list[Asked]:
        return [asked for asked in self.asked if asked.reserve]


@dataclass
class Hall:
    """A turnstile, and those who pass it."""

    turnstile: Turnstile
    passed: list[tuple[str, float]] = field(default_factory=list)
    """Who, and when."""

    async def call(
        self, name: str, *, model: str = MODEL, tokens: int = 1, takes_s: float = 0.0
    ) -> None:
        with await self.turnstile.enter(model, tokens):
            self.passed.append((name, round(now_s(), 2)))
            await asyncio.sleep(takes_s)

    async def calls(self, names: Sequence[str], **options: float | str) -> None:
        await asyncio.gather(*(self.call(name, **options) for name in names))  # type: ignore[arg-type]

    @property
    def times(self) -> list[float]:
        return [at_s for _, at_s in self.passed]

    @property
    def names(self) -> str:
        return "".join(name for name, _ in self.passed)


def play(
    scenario: Callable[[Hall], Awaitable[T]], limiter: FakeLimiter, *, calls_in_flight: int = 512
) -> T:
    async def main() -> T:
        async with Turnstile(limiter, calls_in_flight=calls_in_flight) as turnstile:
            return await scenario(Hall(turnstile))

    return run(main())


def test_all_who_come_at_once_pass_with_one_question() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        await hall.calls("abc")
        assert hall.passed == [("a", 0), ("b", 0), ("c", 0)]

    play(scenario, limiter)
    assert limiter.asked[0].reserve == (1, 1, 1)


def test_those_whose_times_are_near_pass_together_in_their_order_and_never_early() -> None:
    async def scenario(hall: Hall) -> None:
        await hall.calls("abcdefgh")
        assert hall.passed == [
            *((name, 0.04) for name in "abc"),
            *((name, 0.1) for name in "def"),
            *((name, 0.14) for name in "gh"),
        ]

    play(scenario, FakeLimiter({MODEL: 50}))


def test_who_must_wait_passes_when_his_wait_is_over() -> None:
    async def scenario(hall: Hall) -> None:
        await hall.calls("abc")
        assert hall.passed == [("a", 0), ("b", 0.1), ("c", 0.2)]

    play(scenario, FakeLimiter({MODEL: 10}))


def test_the_rate_is_reached_in_the_order_they_came_and_without_a_storm_of_questions() -> None:
    limiter = FakeLimiter({MODEL: 10})

    async def scenario(hall: Hall) -> None:
        await asyncio.gather(*(hall.call(str(number)) for number in range(100)))
        assert hall.passed == [(str(number), number / 10) for number in range(100)]

    play(scenario, limiter)
    assert len(limiter.asked_to_reserve) < 100


def test_nobody_passes_without_a_slot_nor_asks() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        await hall.calls("abcde", takes_s=7)
        assert hall.times == [0, 0, 7, 7, 14]

    play(scenario, limiter, calls_in_flight=2)
    assert [len(asked.reserve) for asked in limiter.asked_to_reserve] == [2, 2, 1]


def test_no_more_are_asked_for_than_the_limiter_takes() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        await asyncio.gather(*(hall.call("") for _ in range(2 * MOST_RESERVATIONS + 1)))

    play(scenario, limiter)
    assert [len(asked.reserve) for asked in limiter.asked] == [MOST_RESERVATIONS] * 2 + [1]


def test_a_model_that_is_refused_leaves_its_slot_to_another() -> None:
    async def scenario(hall: Hall) -> None:
        slow = asyncio.create_task(hall.calls("abc", model="slow", tokens=60))
        await asyncio.sleep(1)
        await hall.calls("xyz", model="fast")
        assert hall.passed == [("a", 0), ("x", 1), ("y", 1), ("z", 1)]
        await slow
        assert hall.passed[-2:] == [("b", 60), ("c", 120)]

    play(scenario, FakeLimiter({"slow": 1}), calls_in_flight=1)


def test_a_model_with_many_waiting_does_not_keep_slots_from_another() -> None:
    async def scenario(hall: Hall) -> None:
        many = asyncio.create_task(hall.calls("a" * 50, takes_s=1))
        await asyncio.sleep(0.5)
        await hall.calls("bbb", model="another", takes_s=1)
        assert hall.names == "aababab"
        many.cancel()
        with suppress(asyncio.CancelledError):
            await many

    play(scenario, FakeLimiter(), calls_in_flight=1)


def test_a_long_refusal_is_asked_about_now_and_then() -> None:
    limiter = FakeLimiter({MODEL: 1}, level={MODEL: -60})

    async def scenario(hall: Hall) -> None:
        await hall.call("a")
        assert hall.times == [60]

    play(scenario, limiter)
    assert 60 / ASK_AGAIN_S <= len(limiter.asked) <= 60 / ASK_AGAIN_S + 3


def test_what_a_call_used_is_settled_soon_and_with_others() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        for passage in [await hall.turnstile.enter(MODEL, 100) for _ in range(3)]:
            with passage:
                passage.settle(60)
        await asyncio.sleep(1)

    play(scenario, limiter)
    assert [one.tokens_back for one in limiter.asked[-1].settle] == [40, 40, 40]
    assert len(limiter.settled) == 3
    assert limiter.asked[-1].at_s < 0.01


def test_settlements_wait_for_others_while_there_are_many() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        passages = [await hall.turnstile.enter(MODEL, 100) for _ in range(100)]
        before = len(limiter.asked)
        for passage in passages:
            with passage:
                passage.settle(60)
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        assert len(limiter.settled) == 100
        assert len(limiter.asked) - before == pytest.approx(1 / FLUSH_S, abs=2)

    play(scenario, limiter)


def test_a_settlement_goes_with_the_next_reservation() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        with await hall.turnstile.enter(MODEL, 100) as passage:
            passage.settle(60)
        await hall.call("a")
        await asyncio.sleep(1)

    play(scenario, limiter)
    assert [(len(asked.settle), len(asked.reserve)) for asked in limiter.asked] == [(0, 1), (1, 1)]


def test_a_call_that_settles_nothing_gives_nothing_back() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        await hall.call("a", tokens=100)
        await asyncio.sleep(1)

    play(scenario, limiter)
    assert not limiter.settled


@pytest.mark.parametrize(("used", "passes_s"), [(10, 10), (1, 2)])
def test_what_comes_back_lets_those_who_were_refused_pass_earlier(
    used: int, passes_s: float
) -> None:
    async def scenario(hall: Hall) -> None:
        passage = await hall.turnstile.enter(MODEL, 60)
        waiting = asyncio.create_task(hall.call("a"))
        await asyncio.sleep(2)
        with passage:
            passage.settle(used)
        await waiting
        assert hall.times == [passes_s]

    play(scenario, FakeLimiter({MODEL: 1}))


def test_a_passage_given_back_frees_its_slot_and_costs_nothing() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        passage = await hall.turnstile.enter(MODEL, 100)
        passage.give_back()
        passage.give_back()
        await hall.calls("ab", takes_s=1)
        assert hall.times == [0, 1]
        await asyncio.sleep(1)

    play(scenario, limiter, calls_in_flight=1)
    assert [(one.tokens_back, one.requests_back) for one in limiter.settled] == [(100, 1)]


@pytest.mark.parametrize("after_s", [0.0, TRIP_S / 2, 0.1, 0.15, 0.2, 5.0])
def test_who_is_cancelled_waits_no_longer_and_has_taken_nothing(after_s: float) -> None:
    # The limiter is being asked, the grant's wait is running, ends at this moment, was refused.
    limiter = FakeLimiter({MODEL: 10})

    async def scenario(hall: Hall) -> None:
        waiting = [asyncio.create_task(hall.turnstile.enter(MODEL, 1)) for _ in range(100)]
        await asyncio.sleep(after_s)
        for task in waiting:
            task.cancel()
        cancelled_at_s = now_s()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert now_s() == cancelled_at_s
        assert hall.turnstile.waiting == 0
        for passage in ended:
            if isinstance(passage, Passage):
                passage.give_back()
        await asyncio.sleep(20)
        settled = len(limiter.settled)
        # Every slot is free again, and all that was granted came back.
        await asyncio.gather(*(hall.call("", takes_s=60) for _ in range(3)))
        assert len(hall.times) == 3
        granted = next(limiter._numbers) - 3
        assert settled == granted

    play(scenario, limiter, calls_in_flight=3)


def test_who_is_cancelled_in_the_moment_he_passes_has_taken_nothing() -> None:
    async def scenario() -> None:
        slots = asyncio.Semaphore(0)
        line = Line(MODEL, FakeLimiter(), slots)
        entering = asyncio.create_task(line.enter(100))
        await asyncio.sleep(0)
        next(iter(line.waiting)).pass_with(Passage(line, Grant("granted", 100, 0.0)))
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        assert not slots.locked()
        assert line._settlements == [Settlement("granted", 100, 1)]

    run(scenario())


def test_while_redis_is_away_nobody_passes_and_nothing_is_lost() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        passage = await hall.turnstile.enter(MODEL, 100)
        limiter.broken_by = StoreUnavailable()
        with passage:
            passage.settle(60)
        waiting = asyncio.create_task(hall.calls("ab"))
        await asyncio.sleep(19.5)
        assert hall.passed == []
        assert hall.turnstile.waiting == 2
        limiter.broken_by = None
        await waiting
        assert all(19.5 < at_s < 19.5 + 2 * RETRY_S for at_s in hall.times)

    play(scenario, limiter)
    assert {one.tokens_back for one in limiter.settled} == {40}
    assert len(limiter.asked) < 50


def test_a_call_too_large_for_the_model_fails_alone() -> None:
    async def scenario(hall: Hall) -> None:
        large = asyncio.create_task(hall.call("b", tokens=TOO_LARGE))
        await hall.calls("ac")
        with pytest.raises(ChunkTooLarge):
            await large
        assert hall.names == "ac"
        await hall.calls("de", takes_s=1)
        assert hall.times[-2:] == [0, 0]

    play(scenario, FakeLimiter(), calls_in_flight=2)


def test_a_defect_fails_those_it_met_and_nobody_later() -> None:
    limiter = FakeLimiter(broken_by=ValueError("a defect"))

    async def scenario(hall: Hall) -> None:
        with pytest.raises(ValueError, match="a defect"):
            await hall.call("a")
        limiter.broken_by = None
        await hall.call("b")
        assert hall.names == "b"

    play(scenario, limiter, calls_in_flight=1)


def test_a_defect_while_settling_does_not_end_settling() -> None:
    limiter = FakeLimiter()

    async def scenario(hall: Hall) -> None:
        with await hall.turnstile.enter(MODEL, 100) as passage:
            limiter.broken_by = ValueError("a defect")
            passage.settle(60)
        await asyncio.sleep(1)
        limiter.broken_by = None
        with await hall.turnstile.enter(MODEL, 100) as passage:
            passage.settle(60)
        await asyncio.sleep(1)

    play(scenario, limiter)
    assert len({one.reservation for one in limiter.settled}) == 2


def test_tells_how_many_wait_and_for_how_long() -> None:
    async def scenario(hall: Hall) -> None:
        turnstile = hall.turnstile
        assert (turnstile.waiting, turnstile.oldest_wait_s) == (0, 0)
        await asyncio.sleep(5)
        waiting = asyncio.create_task(hall.calls("abc", tokens=10))
        await asyncio.sleep(2)
        another = asyncio.create_task(hall.call("x", model="another", tokens=10))
        await asyncio.sleep(1)
        assert (turnstile.waiting, turnstile.oldest_wait_s) == (2, 3)
        await asyncio.gather(waiting, another)
        assert (turnstile.waiting, turnstile.oldest_wait_s) == (0, 0)

    play(scenario, FakeLimiter({MODEL: 1}))


def test_tells_in_which_lines_a_newcomer_would_wait_for_long() -> None:
    async def scenario(hall: Hall) -> None:
        turnstile = hall.turnstile
        assert turnstile.slow(0.1) == Slow(frozenset(), 0, is_all=True)
        await hall.call("a")
        assert turnstile.slow(0.1) == Slow(frozenset(), 0, is_all=False)
        waiting = asyncio.create_task(hall.calls("b" * 300))
        bounds = []
        for estimate_s in (25, 20, 15):
            await asyncio.sleep(5)
            # Celery's loop asks, in another thread.
            with ThreadPoolExecutor(1) as other:
                slow = other.submit(turnstile.slow, estimate_s * 0.9).result()
            assert slow.waiting == pytest.approx(estimate_s * 10, abs=5)
            assert slow.is_all
            bounds.append(turnstile.slow(estimate_s * 1.1))
        assert bounds == [Slow(frozenset(), 0, is_all=False)] * 3
        await waiting
        await hall.call("c")
        assert turnstile.slow(0.1) == Slow(frozenset(), 0, is_all=False)

    play(scenario, FakeLimiter({MODEL: 10}))


def test_tells_whether_another_model_is_in_use_that_is_not_slow() -> None:
    async def scenario(hall: Hall) -> None:
        slow = asyncio.create_task(hall.calls("a" * 20, model="slow"))
        await asyncio.sleep(1)
        assert hall.turnstile.slow(30) == Slow(frozenset({"slow"}), 19, is_all=True)
        await hall.call("b", model="fast")
        assert hall.turnstile.slow(30) == Slow(frozenset({"slow"}), 19, is_all=False)
        slow.cancel()
        slow = asyncio.create_task(hall.calls("a" * 100, model="slow"))
        await asyncio.sleep(IN_USE_S)
        assert hall.turnstile.slow(30).is_all
        slow.cancel()

    play(scenario, FakeLimiter({"slow": 0.1}))


def test_closes_although_a_cancellation_gets_lost() -> None:
    class Deaf(FakeLimiter):
        async def exchange(
            self, model: str, settle: Sequence[Settlement], reserve: Sequence[int], /
        ) -> Exchanged:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1)
            return await super().exchange(model, settle, reserve)

    async def scenario(hall: Hall) -> None:
        waiting = asyncio.create_task(hall.call("a"))
        await asyncio.sleep(0.5)
        waiting.cancel()

    play(scenario, Deaf())
