"""What processes that share holds do: gates alone, and whole engines, on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from qaworker.engine.engine import Engine, Limits, running
from qaworker.engine.gate import Gates, News
from qaworker.engine.holding import LOOK_EVERY_S
from qaworker.engine.ladder import MOST_REFUSALS
from qaworker.errors import CallError, HaltError, ModelRefused, ProviderUnavailable
from qaworker.llm.generator import Answer
from qaworker.models import Outcome
from qaworker.store.holds import OPERATOR, Hold, account_scope, model_scope
from tests.support.virtual_time import now_s, run
from tests.unit.engine.fakes import (
    ACCOUNT,
    Call,
    FakeGenerator,
    FakeHolds,
    FakeRedis,
    FakeStore,
    among_others,
    answer,
    batch,
    chunk,
    keeping,
    shared,
)

LIMITS = Limits(calls_in_flight=16, call_timeout_s=100, soft_limit_s=3000, hard_limit_s=3300)
LONG_CALLS = replace(LIMITS, call_timeout_s=1000)
SCOPE = account_scope(ACCOUNT)
MODEL = "gpt-5-mini"
SOON_S = LOOK_EVERY_S + 0.1


@asynccontextmanager
async def engines(holds: FakeHolds, *generators: FakeGenerator) -> AsyncIterator[list[Engine]]:
    """Processes that share holds and a Redis."""
    redis = FakeRedis()
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running(generator, FakeStore(redis, owner=f"{n}"), shared(holds), LIMITS)
            )
            for n, generator in enumerate(generators)
        ]


async def process(engines: Sequence[Engine], chunks: int) -> list[Outcome]:
    """Share so many chunks between engines, a batch of ten after the other each."""

    async def share(engine: Engine, numbers: Sequence[int]) -> list[Outcome]:
        found = await asyncio.gather(
            *(
                engine.process(batch(*map(chunk, numbers[at : at + 10])))
                for at in range(0, len(numbers), 10)
            )
        )
        return [outcome for outcomes in found for outcome in outcomes.values()]

    shares = [share(engine, range(n, chunks, len(engines))) for n, engine in enumerate(engines)]
    return [outcome for outcomes in await asyncio.gather(*shares) for outcome in outcomes]


def broken(
    from_s: float, to_s: float, error: Callable[[], CallError]
) -> Callable[[Call], Answer | Exception]:
    """An API that answers so between two moments."""
    return lambda call: error() if from_s <= call.at_s < to_s else answer(call.chunks)


@pytest.mark.parametrize(
    ("error", "free"), [(ProviderUnavailable, False), (lambda: HaltError("no quota"), True)]
)
def test_an_outage_kills_no_chunk_and_calls_go_on_soon_after(
    error: Callable[[], CallError], *, free: bool
) -> None:
    begins_s, ends_s = 5.0, 185.0
    generators = [FakeGenerator(broken(begins_s, ends_s, error)) for _ in range(2)]
    holds = FakeHolds()

    async def scenario() -> list[Outcome]:
        async with engines(holds, *generators) as both:
            return await process(both, 400)

    outcomes = run(scenario())
    assert {outcome.kind for outcome in outcomes} == {"ok"}
    assert len(outcomes) == 400
    assert holds.held == {}
    calls = sorted((c for g in generators for c in g.calls), key=lambda call: call.at_s)
    failed = [call for call in calls if begins_s <= call.at_s < ends_s]
    at_once = [call for call in failed if call.at_s < begins_s + 5]
    # Those in flight, and twice while nobody has counted enough failures.
    assert len(at_once) <= 2 * 2 * LIMITS.calls_in_flight
    # Then one of both every 15 s.
    probes = [call.at_s for call in failed if call not in at_once]
    assert len(probes) == len([at_s for at_s in holds.probes if at_s < ends_s])
    assert 11 <= len(probes) <= 12
    resumed = [call for call in calls if call.at_s >= ends_s]
    assert resumed[0].at_s - ends_s <= 16
    assert all(resumed_of(g, ends_s) - ends_s <= 20 for g in generators)
    if free:
        assert len(calls) == 400 + len(failed)


def resumed_of(generator: FakeGenerator, ends_s: float) -> float:
    return next(call.at_s for call in generator.calls if call.at_s >= ends_s)


def test_what_fails_in_an_outage_costs_no_attempt() -> None:
    """Ten minutes are forty probes of the last chunks."""
    generator = FakeGenerator(broken(0, 600, ProviderUnavailable))

    async def scenario() -> list[Outcome]:
        async with engines(FakeHolds(), generator) as both:
            return await process(both, 6)

    outcomes = run(scenario())
    assert [outcome.kind for outcome in outcomes] == ["ok"] * 6
    assert sum(outcome.calls for outcome in outcomes) > 40


@pytest.mark.parametrize("seed", range(3))
def test_a_fault_now_and_then_holds_nobody(seed: int) -> None:
    draws = random.Random(seed)
    generator = FakeGenerator(
        lambda call: ProviderUnavailable() if draws.random() < 0.05 else answer(call.chunks)
    )
    holds = FakeHolds()

    async def scenario() -> list[Outcome]:
        async with engines(holds, generator) as one:
            return await process(one, 1000)

    assert len(run(scenario())) == 1000
    assert holds.held == {}
    assert holds.probes == []


def test_a_model_that_is_refused_holds_that_model_for_all() -> None:
    wrong = "gpt-5-mni"

    def reply(call: Call) -> Answer | Exception:
        return ModelRefused("no such model") if call.model == wrong else answer(call.chunks)

    generators = [FakeGenerator(reply) for _ in range(2)]
    holds = FakeHolds()

    async def scenario() -> tuple[list[str], float]:
        async with engines(holds, *generators) as (first, second):
            task = asyncio.create_task(first.process(batch(chunk(1), model=wrong)))
            await asyncio.sleep(1 + SOON_S)
            other = asyncio.create_task(second.process(batch(chunk(2), model=wrong)))
            await asyncio.sleep(1)
            held = list(holds.held)
            assert holds.held[held[0]].detail == "asked by run run: no such model"
            await process([first, second], 20)
            at_s = now_s()
            first.drain()
            second.drain()
            assert await task == await other == {}
            return held, at_s

    held, at_s = run(scenario())
    assert held == [model_scope(ACCOUNT, wrong)]
    assert at_s < 6
    assert all(call.model != wrong for call in generators[1].calls)


def test_what_waits_for_a_held_model_makes_way_for_others_and_goes_on_when_it_is_released() -> None:
    """A worker has so many threads, and behind messages for a mistyped model wait those of others."""
    wrong, mended_s = "gpt-5-mni", 100.0

    def reply(call: Call) -> Answer | Exception:
        is_refused = call.model == wrong and call.at_s < mended_s
        return ModelRefused("no such model") if is_refused else answer(call.chunks)

    generator = FakeGenerator(reply)
    holds = FakeHolds()

    async def scenario() -> list[float]:
        given_back_s = []
        async with engines(holds, generator) as (engine,):
            made = batch(*map(chunk, range(3)), model=wrong)
            while not (outcomes := await engine.process(made)):
                given_back_s.append(now_s())
            assert len(outcomes) == 3
            assert holds.held == {}
        return given_back_s

    given_back_s = run(scenario())
    assert given_back_s == pytest.approx([31, 61, 91], abs=5)
    # Meanwhile it was tried as often as ever.
    refused = [call for call in generator.calls if call.at_s < mended_s]
    assert len([call for call in refused if call.at_s > 2]) == 6
    assert resumed_of(generator, mended_s) < mended_s + 16


def bare() -> HaltError:
    """As of a firewall before the provider, which answers 403 to some word of the text."""
    error = HaltError("the API answered 403")
    error.may_mean_text = True
    return error


def test_a_chunk_that_is_refused_as_an_account_is_dies_alone() -> None:
    def reply(call: Call) -> Answer | Exception:
        return bare() if call.ids == ["en-0"] else answer(call.chunks)

    generator, holds = FakeGenerator(reply), FakeHolds()

    async def scenario() -> dict[str, Outcome]:
        async with running(generator, FakeStore(FakeRedis()), shared(holds), LIMITS) as engine:
            work = engine.process(batch(*map(chunk, range(5))))
            return await among_others(engine, work)

    dead = [one for one in run(scenario()).values() if one.kind == "dead"]
    assert [(one.reason, one.detail) for one in dead] == [("refused", "the API answered 403")]
    # When it is the one to try whether the account works, it learns nothing of the others.
    assert sum(call.ids == ["en-0"] for call in generator.calls) < 2 * MOST_REFUSALS
    assert holds.held == {}


def test_an_account_that_is_refused_now_and_then_buries_nothing() -> None:
    """However often it is the same chunk that meets it: the answer says that it is the account."""

    def reply(call: Call) -> Answer | Exception:
        is_refused = call.ids == ["en-0"] and now_s() < 400
        return HaltError("no quota") if is_refused else answer(call.chunks)

    generator = FakeGenerator(reply)

    async def scenario() -> dict[str, Outcome]:
        async with running(generator, FakeStore(FakeRedis()), shared(), LIMITS) as engine:
            return await among_others(engine, engine.process(batch(chunk())))

    assert [one.kind for one in run(scenario()).values()] == ["ok"]
    assert sum(call.ids == ["en-0"] for call in generator.calls) > 2 * MOST_REFUSALS


def test_answers_to_calls_that_were_on_the_wire_already_bury_nothing() -> None:
    """They began before the account was refused, and show nothing of it since."""

    def reply(call: Call) -> Answer | Exception:
        is_refused = call.ids == ["en-0"] and now_s() < 200
        return bare() if is_refused else answer(call.chunks)

    def latency_s(call: Call) -> float:
        """One of the others is answered between any two refusals of the first."""
        number = int(call.ids[0].removeprefix("en-"))
        return 8.0 + 15 * number if number else 1.0

    generator = FakeGenerator(reply, latency_s=latency_s)

    async def scenario() -> dict[str, Outcome]:
        async with running(generator, FakeStore(FakeRedis()), shared(), LONG_CALLS) as engine:
            return await engine.process(batch(*map(chunk, range(8))))

    assert {outcome.kind for outcome in run(scenario()).values()} == {"ok"}
    assert sum(call.ids == ["en-0"] for call in generator.calls) > MOST_REFUSALS


def test_while_a_model_is_refused_the_answers_of_another_bury_nothing() -> None:
    generator = FakeGenerator(
        lambda call: bare() if call.model == "bad" and now_s() < 200 else answer(call.chunks)
    )

    async def scenario() -> dict[str, Outcome]:
        async with running(generator, FakeStore(FakeRedis()), shared(), LIMITS) as engine:
            return await among_others(engine, engine.process(batch(chunk(), model="bad")))

    assert [one.kind for one in run(scenario()).values()] == ["ok"]
    assert sum(call.model == "bad" for call in generator.calls) > MOST_REFUSALS


def test_a_hold_from_before_the_start_lets_no_call_through() -> None:
    generator = FakeGenerator()
    holds = FakeHolds()

    async def scenario() -> float:
        await holds.set_hold(SCOPE, "halted")
        async with engines(holds, generator) as one:
            await process(one, 20)
            return now_s()

    run(scenario())
    assert generator.calls[0].at_s == pytest.approx(15, abs=SOON_S)
    assert generator.calls[1].at_s == pytest.approx(16, abs=SOON_S)


def test_an_operators_hold_is_not_tried_and_ends_by_hand() -> None:
    generator = FakeGenerator()
    holds = FakeHolds()

    async def scenario() -> None:
        async with engines(holds, generator) as one:
            await holds.set_hold(SCOPE, "tariff", by=OPERATOR)
            await asyncio.sleep(SOON_S)
            asyncio.get_running_loop().call_later(100, holds.held.clear)
            await process(one, 20)

    run(scenario())
    assert holds.probes == []
    assert 100 <= generator.calls[0].at_s <= 100 + 2 * SOON_S


def test_an_answer_does_not_open_what_an_operator_has_taken_over() -> None:
    """Not even for the moment until Redis is read again."""
    generator = FakeGenerator(broken(0, 1, lambda: HaltError("no quota")), latency_s=lambda _: 2)
    holds = FakeHolds()

    async def scenario() -> None:
        async with engines(holds, generator) as one:
            task = asyncio.create_task(process(one, 10))
            await asyncio.sleep(2 + 15 + SOON_S)
            assert len(holds.probes) == generator.in_flight == 1
            await holds.set_hold(SCOPE, "tariff", by=OPERATOR)
            await asyncio.sleep(60)
            assert len(generator.calls) == 10 + 1
            holds.held.clear()
            await task

    run(scenario())
    assert len(generator.calls) == 10 + 10


@asynccontextmanager
async def two_processes(holds: FakeHolds) -> AsyncIterator[tuple[Gates, Gates]]:
    first, second = Gates(), Gates()
    async with keeping(first, holds), keeping(second, holds):
        yield first, second


async def refuse(gates: Gates, error: HaltError) -> None:
    gates.refused(error, await gates.pass_through(MODEL))


def test_a_refusal_is_told_at_once_and_shuts_the_gates_of_all() -> None:
    async def scenario() -> None:
        holds = FakeHolds()
        async with two_processes(holds) as (first, second):
            await asyncio.sleep(0.5)
            await refuse(first, HaltError("no quota"))
            await asyncio.sleep(0.1)
            assert holds.held[SCOPE].reason == "halted"
            assert holds.held[SCOPE].detail == "no quota"
            await asyncio.sleep(SOON_S)
            assert str(second.halted_by) == "halted: no quota"
            assert second.refused_by is None
            assert first.refused_by is first.halted_by

    run(scenario())


def test_what_one_process_opens_is_open_for_all() -> None:
    async def scenario() -> None:
        holds = FakeHolds()
        async with two_processes(holds) as (first, second):
            await refuse(first, HaltError("no quota"))
            await asyncio.sleep(SOON_S)
            waiting = asyncio.create_task(second.pass_through(MODEL))
            await asyncio.sleep(15)
            second.answered(await waiting)
            await asyncio.sleep(0.1)
            assert holds.held == {}
            assert second.halted_by is None
            await asyncio.sleep(SOON_S)
            assert first.halted_by is None

    run(scenario())


def test_who_has_nobody_waiting_takes_no_probe_from_who_has() -> None:
    async def scenario() -> list[float]:
        holds = FakeHolds()
        async with two_processes(holds) as (first, second):
            await refuse(first, HaltError("no quota"))
            await asyncio.sleep(40)
            assert holds.probes == []
            waiting = asyncio.create_task(second.pass_through(MODEL))
            await waiting
            return holds.probes

    assert run(scenario()) == [pytest.approx(40, abs=SOON_S)]


def test_what_nobody_waits_for_is_released_after_some_minutes() -> None:
    async def scenario() -> None:
        holds = FakeHolds()
        old_key, stopped = account_scope("oldkey00"), model_scope(ACCOUNT, "stopped")
        await holds.set_hold(old_key, "halted")
        await holds.set_hold(stopped, "tariff", by=OPERATOR)
        await holds.set_hold("run:1", "budget")
        async with two_processes(holds) as (first, second):
            await refuse(first, ModelRefused("no such model"))
            await asyncio.sleep(200)
            waiting = asyncio.create_task(second.pass_through(MODEL))
            await asyncio.sleep(150)
            assert holds.held.keys() == {model_scope(ACCOUNT, MODEL), stopped, "run:1"}
            await waiting
            await asyncio.sleep(350)
            assert holds.held.keys() == {stopped, "run:1"}
            assert first.of(MODEL).halted_by is None
            # Redis would leave an operator's alone, but is not asked every second.
            assert stopped not in holds.releases

    run(scenario())


def test_what_somebody_waits_for_is_held_however_long() -> None:
    async def scenario() -> None:
        holds = FakeHolds()
        async with two_processes(holds) as (first, second):
            await refuse(first, HaltError("no quota"))
            for _ in range(100):
                await asyncio.sleep(15)
                second.refused(HaltError("no quota"), await second.pass_through(MODEL))
                assert holds.held.keys() == {SCOPE}
            assert 90 <= len(holds.probes) <= 100

    run(scenario())


def test_a_hold_that_cannot_be_told_is_told_when_redis_is_back() -> None:
    async def scenario() -> None:
        holds = FakeHolds()
        async with two_processes(holds) as (first, second):
            holds.is_away = True
            await refuse(first, HaltError("no quota"))
            await asyncio.sleep(10)
            assert first.halted_by is not None
            assert second.halted_by is None
            holds.is_away = False
            await asyncio.sleep(2 * SOON_S)
            assert str(second.halted_by) == "halted: no quota"

    run(scenario())


def test_a_hold_lasts_through_an_outage_of_redis() -> None:
    async def scenario() -> None:
        holds = FakeHolds()
        async with two_processes(holds) as (first, second):
            await refuse(first, HaltError("no quota"))
            await asyncio.sleep(SOON_S)
            holds.is_away = True
            await asyncio.sleep(10)
            assert first.halted_by is not None
            assert second.halted_by is not None

    run(scenario())


def test_what_was_read_before_a_refusal_does_not_open_the_gate() -> None:
    class Slow(FakeHolds):
        async def holds(self) -> list[Hold]:
            found = await super().holds()
            await asyncio.sleep(0.3)
            return found

    async def scenario() -> None:
        holds, gates = Slow(), Gates()
        async with keeping(gates, holds):
            passed = await gates.pass_through(MODEL)
            await asyncio.sleep(LOOK_EVERY_S + 0.1)
            gates.refused(HaltError("no quota"), passed)
            for _ in range(20):
                await asyncio.sleep(0.1)
                assert gates.halted_by is not None

    run(scenario())


def test_news_that_comes_while_other_news_is_told_is_told_too() -> None:
    class Slow(FakeHolds):
        async def set_hold(
            self, scope: str, reason: str, *, detail: str = "", by: str = "a worker"
        ) -> bool:
            await asyncio.sleep(0.3)
            return await super().set_hold(scope, reason, detail=detail, by=by)

    async def scenario() -> None:
        holds, gates = Slow(), Gates()
        async with keeping(gates, holds):
            await refuse(gates, HaltError("no quota"))
            await asyncio.sleep(0.1)
            gates.account.probe()
            gates.answered(await gates.pass_through(MODEL))
            assert gates.account.news is News.ANSWERED
            await asyncio.sleep(1)
            assert gates.halted_by is None
            assert holds.held == {}

    run(scenario())


def test_a_defect_does_not_end_the_looking() -> None:
    class Faulty(FakeHolds):
        faults = 3

        async def holds(self) -> list[Hold]:
            if self.faults:
                self.faults -= 1
                raise ValueError("a defect")
            return await super().holds()

    async def scenario() -> None:
        holds, gates = Faulty(), Gates()
        async with keeping(gates, holds):
            await holds.set_hold(SCOPE, "halted")
            await asyncio.sleep(8)
            assert gates.halted_by is not None

    run(scenario())


def test_holds_of_other_accounts_and_runs_are_none_of_ours() -> None:
    async def scenario() -> None:
        holds, gates = FakeHolds(), Gates()
        for scope in (account_scope("other"), model_scope("other", MODEL), "run:1"):
            await holds.set_hold(scope, "halted")
        async with keeping(gates, holds):
            await asyncio.sleep(SOON_S)
            assert gates.halted_by is None
            assert len(list(gates)) == 1

    run(scenario())
