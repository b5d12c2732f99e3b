"""What is paid, when nobody is, and what a run's end costs; on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from qaworker.engine.background import LAST_WRITE_S
from qaworker.engine.engine import Engine, Limits, running
from qaworker.engine.held_runs import HeldRuns
from qaworker.engine.purse import RETRY_S, Money, Purse
from qaworker.errors import (
    AnswerTruncated,
    CallError,
    HaltError,
    InternalFault,
    ProviderThrottled,
    ProviderUnavailable,
    StoreUnavailable,
)
from qaworker.limits.budget import Granted, Settlement, State
from qaworker.llm.estimates import Tokens
from qaworker.models import Usage
from qaworker.store.holds import BUDGET, BUDGET_UNKNOWN, UNPRICED, account_scope, run_scope
from tests.support.virtual_time import now_s, run
from tests.unit.engine.fakes import (
    ACCOUNT,
    FakeBudgets,
    FakeGenerator,
    FakeHolds,
    FakeLimiter,
    FakeRedis,
    FakeStore,
    batch,
    budgeted,
    chunk,
    price,
    replies,
    shared,
)

RUN = "run"
MODEL = "gpt-5-mini"
LIMITS = Limits(calls_in_flight=4, call_timeout_s=100, soft_limit_s=270, hard_limit_s=300)
ONE_CALL = replace(LIMITS, calls_in_flight=1)
# 10 micro-dollars a token of output: 1000 for each.
TOKENS = Tokens(0, 100)
USAGE = Usage(input=100, output=10)
MOST, COST = 1000, 200
# What one call of the fake generator costs at most, and does cost: 100 in and 20 out.
CALL_MOST, CALL_COST = 1000, 300


class Till:
    """A purse and those it is asked by."""

    def __init__(self, budgets: FakeBudgets, holds: FakeHolds) -> None:
        self.held: list[str] = []
        self.held_runs = HeldRuns(holds.holds, self.held.append)
        self.purse = Purse(budgets, holds, self.held_runs, price)

    async def reserve(self) -> Money:
        """As a call does that the limiter lets pass at once."""
        while True:
            async with self.purse.foresee(RUN, MODEL, TOKENS) as reserve:
                if (money := await reserve()) is not None:
                    return money


@asynccontextmanager
async def till(budgets: FakeBudgets, holds: FakeHolds | None = None) -> AsyncIterator[Till]:
    made = Till(budgets, holds or FakeHolds())
    task = asyncio.create_task(made.purse.run())
    yield made
    task.cancel()
    await asyncio.wait([task])
    await made.purse.close()


def test_what_a_call_can_cost_is_reserved_and_what_it_cost_is_charged() -> None:
    budgets = FakeBudgets(run=10_000)

    async def scenario() -> None:
        async with till(budgets) as at:
            with await at.reserve() as money:
                assert budgets.state(RUN) == State(10_000, 0, MOST)
                money.charge(USAGE)

    run(scenario())
    assert budgets.state(RUN) == State(10_000, COST, 0)


def test_a_redis_that_hangs_does_not_keep_a_process_that_ends() -> None:
    budgets = FakeBudgets(run=10_000)

    async def scenario() -> float:
        async with till(budgets) as at:
            with await at.reserve():
                budgets.answers_after_s = 1000
        return now_s()

    assert run(scenario()) < LAST_WRITE_S + 1


@pytest.mark.parametrize("usage", [None, Usage(), Usage(output=10)])
def test_what_nobody_tells_is_charged_in_full(usage: Usage | None) -> None:
    budgets = FakeBudgets(run=10_000)

    async def scenario() -> None:
        async with till(budgets) as at:
            with await at.reserve() as money:
                if usage is not None:
                    money.charge(usage)

    run(scenario())
    assert budgets.state(RUN) == State(10_000, MOST, 0)


def test_a_run_without_a_budget_costs_no_round_trip() -> None:
    budgets = FakeBudgets()

    async def scenario() -> None:
        async with till(budgets) as at, at.purse.foresee(None, "unpriced", TOKENS) as reserve:
            money = await reserve()
            assert money is not None
            money.charge(USAGE)

    run(scenario())
    assert budgets.trips == 0


def test_calls_that_begin_together_share_a_round_trip() -> None:
    budgets = FakeBudgets(run=100_000)

    async def scenario() -> None:
        async with till(budgets) as at:
            await asyncio.gather(*[at.reserve() for _ in range(50)])

    run(scenario())
    # One to see what there is, one to reserve.
    assert budgets.trips == 2
    assert budgets.state(RUN).reserved_micros == 50 * MOST


def test_who_waits_for_the_limiter_has_reserved_nothing() -> None:
    budgets = FakeBudgets(run=10 * MOST)

    async def scenario() -> int:
        async with till(budgets) as at:
            through = 0

            async def wait() -> None:
                nonlocal through
                async with at.purse.foresee(RUN, MODEL, TOKENS):
                    through += 1
                    await asyncio.sleep(60)

            waiting = [asyncio.create_task(wait()) for _ in range(30)]
            await asyncio.sleep(10)
            assert budgets.state(RUN) == State(10 * MOST, 0, 0)
            first = through
            await asyncio.wait(waiting)
            assert through == 30
            return first

    # As many as there is money for.
    assert run(scenario()) == 10
    assert budgets.trips < 200


def test_a_reservation_whose_answer_is_lost_is_asked_for_again_and_charged_once() -> None:
    class Lossy(FakeBudgets):
        async def reserve(
            self, run_id: str, asked: Sequence[str], settled: Sequence[Settlement] = ()
        ) -> Granted:
            granted = await super().reserve(run_id, asked, settled)
            if asked and self.trips < 5:
                raise StoreUnavailable
            return granted

    budgets = Lossy(run=10_000)

    async def scenario() -> None:
        async with till(budgets) as at:
            with await at.reserve() as money:
                assert budgets.state(RUN) == State(10_000, 0, MOST)
                money.charge(USAGE)

    run(scenario())
    assert budgets.state(RUN) == State(10_000, COST, 0)


@pytest.mark.parametrize("is_given_up", [False, True])
def test_who_was_foreseen_and_goes_leaves_room_for_others(*, is_given_up: bool) -> None:
    budgets = FakeBudgets(run=MOST)

    async def scenario() -> float:
        async with till(budgets) as at:

            async def wait() -> None:
                async with at.purse.foresee(RUN, MODEL, TOKENS):
                    await asyncio.sleep(10)

            first = asyncio.create_task(wait())
            await asyncio.sleep(1)
            second = asyncio.create_task(at.reserve())
            await asyncio.sleep(1)
            assert not second.done()
            if is_given_up:
                first.cancel()
            await second
            return now_s()

    assert run(scenario()) == pytest.approx(2 if is_given_up else 10, abs=0.1)


def test_who_is_refused_gets_what_others_give_back() -> None:
    budgets, holds = FakeBudgets(run=MOST + COST), FakeHolds()

    async def scenario() -> float:
        async with till(budgets, holds) as at:
            first = await at.reserve()
            asyncio.get_running_loop().call_later(10, first.charge, USAGE)
            await at.reserve()
            return now_s()

    assert run(scenario()) == pytest.approx(10, abs=0.1)
    assert holds.held == {}


def test_who_is_cancelled_keeps_nobody_behind_it_from_what_is_left() -> None:
    budgets = FakeBudgets(run=MOST + COST)
    budgets.open["another's"] = (RUN, MOST)

    async def scenario() -> None:
        async with till(budgets) as at:
            refused = asyncio.create_task(at.reserve())
            await asyncio.sleep(0.1)
            refused.cancel()
            async with asyncio.timeout(RETRY_S), at.purse.foresee(RUN, MODEL, Tokens(0, 10)):
                pass

    run(scenario())


def test_what_other_workers_give_back_is_found() -> None:
    budgets = FakeBudgets(run=MOST)
    budgets.open["another's"] = (RUN, MOST)

    async def scenario() -> float:
        async with till(budgets) as at:
            asyncio.get_running_loop().call_later(10, budgets.open.clear)
            await at.reserve()
            return now_s()

    assert 10 <= run(scenario()) <= 10 + RETRY_S + 0.1


def test_a_run_is_held_when_nothing_that_may_come_back_is_enough() -> None:
    budgets, holds = FakeBudgets(run=MOST + COST - 1), FakeHolds()

    async def scenario() -> list[str]:
        async with till(budgets, holds) as at:
            with await at.reserve() as money:
                refused = asyncio.create_task(at.reserve())
                await asyncio.sleep(5)
                assert not at.held
                money.charge(USAGE)
            await asyncio.sleep(1)
            assert not refused.done()
            refused.cancel()
            await asyncio.wait([refused])
            return at.held

    assert run(scenario()) == [RUN]
    hold = holds.held[run_scope(RUN)]
    told = "$0.0002 of $0.0012 spent, and the next call may cost $0.0010"
    assert (hold.reason, hold.detail) == (BUDGET, told)
    assert budgets.state(RUN).reserved_micros == 0


def test_a_budget_that_is_raised_while_the_hold_is_set_is_not_held() -> None:
    class Raised(FakeHolds):
        async def set_hold(
            self, scope: str, reason: str, *, detail: str = "", by: str = ""
        ) -> bool:
            budgets.budget[RUN] = 10 * MOST  # by the client, which found no hold to release
            return await super().set_hold(scope, reason, detail=detail, by=by)

    budgets, holds = FakeBudgets(run=1), Raised()

    async def scenario() -> list[str]:
        async with till(budgets, holds) as at:
            await at.reserve()
            return at.held

    assert run(scenario()) == []
    assert holds.held == {}


@pytest.mark.parametrize("model", [MODEL, "unpriced"])
def test_a_run_that_is_cancelled_while_the_hold_is_set_is_not_held(model: str) -> None:
    class Cancelled(FakeHolds):
        async def set_hold(
            self, scope: str, reason: str, *, detail: str = "", by: str = ""
        ) -> bool:
            budgets.cancelled.add(RUN)  # by a command, which found no hold to release
            return await super().set_hold(scope, reason, detail=detail, by=by)

    budgets, holds, generator = FakeBudgets(run=1), Cancelled(), FakeGenerator()

    async def scenario() -> None:
        async with engine(generator, budgets, holds) as made:
            assert await made.process(budgeted(batch(chunk(), model=model))) == {}

    run(scenario())
    assert holds.releases == [run_scope(RUN)]
    assert holds.held == {}
    assert generator.calls == []


def test_a_run_whose_budget_redis_has_lost_is_held_for_its_command_to_open_it() -> None:
    budgets, holds, generator = FakeBudgets(), FakeHolds(), FakeGenerator()

    async def scenario() -> float:
        async with engine(generator, budgets, holds) as made:
            assert await made.process(budgeted(batch(chunk()))) == {}
            held_s = now_s()
            hold = holds.held[run_scope(RUN)]
            assert (hold.reason, hold.detail) == (
                BUDGET_UNKNOWN,
                "Redis has lost it; the run's own command opens it again",
            )
            budgets.budget[RUN] = 10 * CALL_MOST
            await holds.release(run_scope(RUN))
            assert len(await made.process(budgeted(batch(chunk())))) == 1
            return held_s

    assert run(scenario()) < 1
    assert len(generator.calls) == 1


def test_while_redis_is_away_nobody_is_granted_and_nothing_is_lost() -> None:
    budgets = FakeBudgets(run=10_000)

    async def scenario() -> float:
        async with till(budgets) as at:
            first = await at.reserve()
            budgets.is_away = True
            first.charge(USAGE)
            second = asyncio.create_task(at.reserve())
            await asyncio.sleep(60)
            assert not second.done()
            budgets.is_away = False
            await second
            return now_s()

    assert run(scenario()) == pytest.approx(60, abs=2 * RETRY_S)
    assert budgets.state(RUN) == State(10_000, COST, MOST)


def test_who_is_cancelled_has_taken_nothing() -> None:
    budgets = FakeBudgets(run=10_000)

    async def scenario() -> None:
        async with till(budgets) as at:
            for wait_s in (0.0, 0.005, 0.0105, 0.011, 0.02):
                asked = asyncio.create_task(at.reserve())
                await asyncio.sleep(wait_s)
                given = asked.done()
                asked.cancel()
                await asyncio.wait([asked])
                if given:
                    asked.result().give_back()
                await asyncio.sleep(1)
                assert budgets.state(RUN) == State(10_000, 0, 0), wait_s

    run(scenario())


def test_a_budget_that_another_takes_meanwhile_gives_its_passage_back() -> None:
    class Taken(FakeBudgets):
        async def reserve(
            self, run_id: str, asked: Sequence[str], settled: Sequence[Settlement] = ()
        ) -> Granted:
            if asked and now_s() < 1:
                self.open["another's"] = (RUN, CALL_MOST)
            return await super().reserve(run_id, asked, settled)

    generator, budgets, limiter = FakeGenerator(), Taken(run=CALL_MOST), FakeLimiter()
    given = replace(shared(FakeHolds(), budgets), limiter=limiter)

    async def scenario() -> float:
        async with running(generator, FakeStore(FakeRedis()), given, ONE_CALL) as made:
            poor = asyncio.create_task(made.process(budgeted(batch(chunk()))))
            await asyncio.sleep(1)
            assert [one.requests_back for one in limiter.settled] == [1]
            # Its slot is another's.
            assert len(await made.process(batch(chunk(1), run_id="other"))) == 1
            assert not poor.done()
            await asyncio.sleep(30)
            assert len(limiter.settled) == 2
            del budgets.open["another's"]
            began_s = now_s()
            assert len(await poor) == 1
            return now_s() - began_s

    assert run(scenario()) < RETRY_S + 1.1
    assert budgets.state(RUN) == State(CALL_MOST, CALL_COST, 0)


def test_who_is_held_while_money_is_reserved_has_taken_nothing() -> None:
    class Slow(FakeBudgets):
        async def reserve(
            self, run_id: str, asked: Sequence[str], settled: Sequence[Settlement] = ()
        ) -> Granted:
            if asked:
                await asyncio.sleep(5)
            return await super().reserve(run_id, asked, settled)

    generator, budgets, holds = FakeGenerator(), Slow(run=10 * CALL_MOST), FakeHolds()

    async def scenario() -> None:
        async with engine(generator, budgets, holds) as made:
            work = asyncio.create_task(made.process(budgeted(batch(chunk()))))
            await asyncio.sleep(2)
            await holds.set_hold(account_scope(ACCOUNT), "maintenance", by="operator")
            await asyncio.sleep(28)
            assert budgets.state(RUN) == State(10 * CALL_MOST, 0, 0)
            del holds.held[account_scope(ACCOUNT)]
            assert len(await work) == 1

    run(scenario())
    assert len(generator.calls) == 1
    assert budgets.state(RUN) == State(10 * CALL_MOST, CALL_COST, 0)


def free(error: CallError) -> CallError:
    """As the provider answers that refuses a call, or who never had it."""
    error.is_free = True
    return error


@asynccontextmanager
async def engine(
    generator: FakeGenerator, budgets: FakeBudgets, holds: FakeHolds | None = None
) -> AsyncIterator[Engine]:
    store = FakeStore(FakeRedis())
    async with running(generator, store, shared(holds, budgets), LIMITS) as made:
        yield made


def test_what_was_sent_before_its_run_had_a_budget_is_charged_all_the_same() -> None:
    generator, holds = FakeGenerator(), FakeHolds()
    budgets = FakeBudgets(run=10 * CALL_COST)
    redis = FakeRedis(budgets={RUN})

    async def scenario() -> int:
        async with running(generator, FakeStore(redis), shared(holds, budgets), LIMITS) as made:
            unmarked = batch(*map(chunk, range(30)))
            assert not unmarked.is_budgeted
            return len(await made.process(unmarked))

    outcomes = run(scenario())
    state = budgets.state(RUN)
    assert len(generator.calls) == outcomes > 0
    assert state.spent_micros == outcomes * CALL_COST <= 10 * CALL_COST
    assert holds.held[run_scope(RUN)].reason == BUDGET


def test_an_engine_spends_the_budget_and_no_more() -> None:
    generator, holds = FakeGenerator(), FakeHolds()
    budgets = FakeBudgets(run=10 * CALL_COST)

    async def scenario() -> tuple[int, float]:
        async with engine(generator, budgets, holds) as made:
            chunks = [chunk(number) for number in range(30)]
            outcomes = await made.process(budgeted(batch(*chunks)))
            ended_s = now_s()
            # What is held makes no call, and others do.
            assert await made.process(budgeted(batch(chunk(99)))) == {}
            other = await made.process(batch(chunk(98), run_id="other"))
            assert len(other) == 1
            return len(outcomes), ended_s

    outcomes, ended_s = run(scenario())
    state = budgets.state(RUN)
    assert state.spent_micros == outcomes * CALL_COST
    assert state.spent_micros <= 10 * CALL_COST < state.spent_micros + CALL_MOST
    assert state.reserved_micros == 0
    assert len(generator.calls) == outcomes + 1
    assert holds.held[run_scope(RUN)].reason == BUDGET
    assert ended_s < 20


@pytest.mark.parametrize(
    ("failure", "charged"),
    [
        (ProviderThrottled(retry_after_s=1), CALL_COST),
        (HaltError(), CALL_COST),
        (AnswerTruncated(usage=Usage(input=100, output=100)), 1100 + CALL_COST),
        (AnswerTruncated(), 1000 + CALL_COST),
        (ProviderUnavailable(), 1000 + CALL_COST),
        (free(ProviderUnavailable()), CALL_COST),
    ],
)
def test_a_failed_call_costs_what_the_provider_charges_or_may(
    failure: Exception, charged: int
) -> None:
    generator = FakeGenerator(replies(failure))
    budgets = FakeBudgets(run=100_000)

    async def scenario() -> int:
        async with engine(generator, budgets) as made:
            return len(await made.process(budgeted(batch(chunk()))))

    assert run(scenario()) == 1
    assert budgets.state(RUN) == State(100_000, charged, 0)


def test_a_defect_is_charged_in_full() -> None:
    generator = FakeGenerator(replies(InternalFault()))
    budgets = FakeBudgets(run=100_000)

    async def scenario() -> None:
        async with engine(generator, budgets) as made:
            await made.process(budgeted(batch(chunk())))

    run(scenario())
    assert budgets.state(RUN) == State(100_000, CALL_MOST, 0)


def test_a_model_without_a_price_holds_its_run() -> None:
    generator, holds = FakeGenerator(), FakeHolds()

    async def scenario() -> None:
        async with engine(generator, FakeBudgets(run=1000), holds) as made:
            assert await made.process(budgeted(batch(chunk(), model="unpriced"))) == {}
            assert RUN in made.held_runs

    run(scenario())
    hold = holds.held[run_scope(RUN)]
    assert (hold.reason, hold.detail) == (UNPRICED, "the price of unpriced is not known")
    assert generator.calls == []


def test_an_operators_hold_ends_a_run_and_its_calls_on_the_wire_are_kept() -> None:
    generator, holds = FakeGenerator(latency_s=lambda _: 10.0), FakeHolds()

    async def scenario() -> tuple[int, float]:
        async with engine(generator, FakeBudgets(), holds) as made:
            work = asyncio.create_task(made.process(batch(*[chunk(n) for n in range(30)])))
            await asyncio.sleep(5)
            await holds.set_hold(run_scope(RUN), "wrong prompt", by="operator")
            outcomes = await work
            return len(outcomes), now_s()

    outcomes, ended_s = run(scenario())
    assert outcomes == LIMITS.calls_in_flight == len(generator.calls)
    assert ended_s == pytest.approx(10, abs=1)


def test_a_run_that_was_released_a_moment_ago_is_begun() -> None:
    generator, holds = FakeGenerator(), FakeHolds()

    async def scenario() -> int:
        async with engine(generator, FakeBudgets(), holds) as made:
            await holds.set_hold(run_scope(RUN), BUDGET)
            await asyncio.sleep(2)
            assert await made.process(batch(chunk())) == {}
            await holds.release(run_scope(RUN))
            return len(await made.process(batch(chunk())))

    assert run(scenario()) == 1


def test_who_waits_for_money_takes_nothing_of_the_limit() -> None:
    generator, budgets = FakeGenerator(), FakeBudgets(run=CALL_MOST)
    budgets.open["another's"] = (RUN, CALL_MOST)

    async def scenario() -> None:
        async with engine(generator, budgets) as made:
            poor = asyncio.create_task(made.process(budgeted(batch(*map(chunk, range(8))))))
            await asyncio.sleep(3)
            began_s = now_s()
            await made.process(batch(chunk(99), run_id="other"))
            assert now_s() - began_s < 2
            made.drain()
            assert await poor == {}

    run(scenario())
    assert len(generator.calls) == 1
