"""Engines on virtual time, with a provider and a Redis in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TypeVar

import pytest

from qaworker.engine.batches import Batch
from qaworker.engine.engine import MOST_SLOW, MOST_UNDECIDED, Engine, Limits, running
from qaworker.engine.ladder import ATTEMPTS, MOST_PROBES
from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    CallError,
    HaltError,
    ModelRefused,
    ProviderThrottled,
    ProviderUnavailable,
    RequestRefused,
    StoreUnavailable,
)
from qaworker.limits.limiter import Exchanged, Settlement
from qaworker.llm.estimates import Tokens
from qaworker.llm.generator import Answer
from qaworker.models import Chunk, GenerationConfig, Language, Outcome, Usage
from qaworker.store.counters import Portion
from qaworker.store.outcomes import CLAIM_TTL, Claims, Notice, Spent
from tests.support.virtual_time import now_s, run
from tests.unit.engine.fakes import (
    USAGE,
    Call,
    FakeBudgets,
    FakeGenerator,
    FakeHolds,
    FakeLimiter,
    FakeRedis,
    FakeStore,
    among_others,
    answer,
    batch,
    chunk,
    is_other,
    replies,
    shared,
)

T = TypeVar("T")
Pair = tuple[dict[str, Outcome], dict[str, Outcome]]

LIMITS = Limits(calls_in_flight=4, call_timeout_s=100, soft_limit_s=270, hard_limit_s=300)
CLAIM_S = CLAIM_TTL.total_seconds()


def with_engine(
    scenario: Callable[[Engine], Awaitable[T]],
    generator: FakeGenerator,
    redis: FakeRedis,
    limits: Limits = LIMITS,
    store: type[FakeStore] = FakeStore,
) -> T:
    async def host() -> T:
        async with running(generator, store(redis), shared(), limits) as engine:
            return await scenario(engine)

    return run(host())


class LengthGenerator(FakeGenerator):
    """Takes what a chunk says of itself."""

    def tokens(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,  # noqa: ARG002, the signature is the generator's
        model: str,  # noqa: ARG002
        *,
        cap_factor: float = 1.0,  # noqa: ARG002
        repair: str | None = None,  # noqa: ARG002
    ) -> Tokens:
        return Tokens(sum(chunk.tokens for chunk in chunks), 100)


def test_a_batch_that_runs_out_of_memory_goes_back_after_one_try() -> None:
    generator = FakeGenerator(
        lambda call: MemoryError() if call.ids == ["en-1"] else answer(call.chunks)
    )

    async def scenario(engine: Engine) -> list[str]:
        return list(await engine.process(batch(chunk(0), chunk(1))))

    assert len(with_engine(scenario, generator, FakeRedis())) == 1
    assert len(generator.calls) == 2


@pytest.mark.parametrize("tokens", [10_000_000, 10**400])
@pytest.mark.parametrize("is_budgeted", [False, True])
def test_a_chunk_larger_than_any_limit_dies_alone_and_holds_no_run(
    redis: FakeRedis, tokens: int, *, is_budgeted: bool
) -> None:
    huge = chunk(99).model_copy(update={"tokens": tokens})
    made = replace(batch(huge, *map(chunk, range(5))), is_budgeted=is_budgeted)
    holds, budgets = FakeHolds(), FakeBudgets(run=100_000)

    async def scenario() -> dict[str, Outcome]:
        given = shared(holds, budgets)
        async with running(LengthGenerator(), FakeStore(redis), given, LIMITS) as engine:
            return await engine.process(made)

    outcomes = run(scenario())
    assert [outcomes[digest].reason for digest in made.digests] == ["too_large", *[""] * 5]
    assert holds.held == {}


def test_an_answer_is_written_while_the_limits_it_reported_are_not_told(redis: FakeRedis) -> None:
    class Hanging(FakeLimiter):
        async def learn(self, model: str, rpm: float | None, tpm: float | None) -> None:
            await asyncio.sleep(30)
            await super().learn(model, rpm, tpm)

    limiter = Hanging()
    reported = (500.0, 200_000.0)
    generator = FakeGenerator(lambda call: replace(answer(call.chunks), reported=reported))

    async def scenario() -> float:
        given = replace(shared(), limiter=limiter)
        async with running(generator, FakeStore(redis), given, LIMITS) as engine:
            await engine.process(batch(chunk()))
            written_s = now_s()
            await asyncio.sleep(60)
            return written_s

    assert run(scenario()) < 2
    assert limiter.learnt == [reported]


@pytest.fixture
def redis() -> FakeRedis:
    return FakeRedis()


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_batch_ends_with_its_outcomes_written(redis: FakeRedis, language: Language) -> None:
    made = batch(chunk(1, language), chunk(2, language))
    outcomes = with_engine(lambda engine: engine.process(made), FakeGenerator(), redis)
    assert outcomes == redis.outcomes
    assert list(outcomes) == list(made.digests)
    for digest, asked in zip(made.digests, made.chunks, strict=True):
        outcome = outcomes[digest]
        assert (outcome.kind, outcome.run_id, outcome.calls) == ("ok", "run", 1)
        assert outcome.usage == USAGE
        assert outcome.pairs[0].answer == asked.text
    assert redis.done == [("run", digest) for digest in made.digests]
    assert redis.claims == {}


def test_a_recorded_outcome_is_told_and_not_paid_for_again(redis: FakeRedis) -> None:
    made = batch(chunk(1), run_id="later")
    known = Outcome(digest=made.digests[0], kind="ok", run_id="earlier")
    redis.outcomes[known.digest] = known
    generator = FakeGenerator()
    assert with_engine(lambda engine: engine.process(made), generator, redis) == {
        known.digest: known
    }
    assert generator.calls == []
    assert redis.done == [("later", known.digest)]


@pytest.mark.parametrize(("run_id", "calls"), [("run", 0), ("later", 1)])
def test_a_dead_chunk_is_tried_again_by_another_run_only(
    redis: FakeRedis, run_id: str, calls: int
) -> None:
    made = batch(chunk(1), run_id=run_id)
    digest = made.digests[0]
    redis.outcomes[digest] = Outcome(digest=digest, kind="dead", run_id="run")
    generator = FakeGenerator()
    with_engine(lambda engine: engine.process(made), generator, redis)
    assert len(generator.calls) == calls


def test_a_chunk_that_is_twice_in_a_batch_is_asked_once(redis: FakeRedis) -> None:
    again = chunk(1).model_copy(update={"chunk_id": "again"})
    generator = FakeGenerator()
    with_engine(lambda engine: engine.process(batch(chunk(1), again)), generator, redis)
    assert len(generator.calls) == 1


@pytest.mark.parametrize("apart_s", [0.0, 0.5], ids=["while claiming", "while calling"])
def test_two_batches_at_once_share_the_call_for_a_chunk(redis: FakeRedis, apart_s: float) -> None:
    generator = FakeGenerator()

    async def scenario(engine: Engine) -> Pair:
        first = asyncio.create_task(engine.process(batch(chunk(1), chunk(2), run_id="a")))
        await asyncio.sleep(apart_s)
        return await asyncio.gather(first, engine.process(batch(chunk(2), chunk(3), run_id="b")))

    first, second = with_engine(scenario, generator, redis)
    assert sorted(call.ids[0] for call in generator.calls) == ["en-1", "en-2", "en-3"]
    shared = batch(chunk(2)).digests[0]
    assert first[shared] == second[shared]
    assert {run for run, digest in redis.done if digest == shared} == {"a", "b"}


def test_a_batch_that_joins_a_call_which_ends_while_it_claims_others(redis: FakeRedis) -> None:
    """The second batch comes when the first one's call is about to end."""
    generator = FakeGenerator()

    async def scenario(engine: Engine) -> Pair:
        first = asyncio.create_task(engine.process(batch(chunk(1))))
        # Claimed after 1 ms, answered after 1001 ms, written after 1002 ms.
        await asyncio.sleep(1.0015)
        second = asyncio.create_task(engine.process(batch(chunk(1), chunk(2))))
        return await asyncio.gather(first, second)

    first, second = with_engine(scenario, generator, redis)
    assert second.keys() == set(batch(chunk(1), chunk(2)).digests)
    assert second.items() >= first.items()
    assert len(generator.calls) == 2


def test_a_joined_chunk_that_is_handed_back_is_taken_over(redis: FakeRedis) -> None:
    """The first batch meets its soft limit while the second has time left."""
    generator = FakeGenerator(replies(ProviderUnavailable()), latency_s=lambda _: 99)
    limits = Limits(calls_in_flight=1, call_timeout_s=100, soft_limit_s=100, hard_limit_s=400)

    async def scenario(engine: Engine) -> Pair:
        first = asyncio.create_task(engine.process(batch(chunk(1), run_id="a")))
        await asyncio.sleep(50)
        return await asyncio.gather(first, engine.process(batch(chunk(1), run_id="b")))

    first, second = with_engine(scenario, generator, redis, limits)
    assert first == {}
    assert [outcome.run_id for outcome in second.values()] == ["b"]


def test_what_another_process_generates_is_waited_for_and_taken(redis: FakeRedis) -> None:
    mine, theirs = FakeGenerator(), FakeGenerator(latency_s=lambda _: 20)

    async def scenario() -> list[dict[str, Outcome]]:
        async with AsyncExitStack() as stack:
            here, there = [
                await stack.enter_async_context(
                    running(g, FakeStore(redis, name), shared(), LIMITS)
                )
                for g, name in ((mine, "here"), (theirs, "there"))
            ]
            first = asyncio.create_task(there.process(batch(chunk(1), run_id="a")))
            await asyncio.sleep(5)
            return [await here.process(batch(chunk(1), run_id="b")), await first]

    here, there = run(scenario())
    assert here == there
    assert (len(mine.calls), len(theirs.calls)) == (0, 1)
    assert [run_id for run_id, _ in redis.done] == ["a", "b"]


def test_what_a_dead_process_claimed_is_taken_when_its_claim_expires(redis: FakeRedis) -> None:
    made = batch(chunk(1))
    redis.claims[made.digests[0]] = ("dead", CLAIM_S)
    generator = FakeGenerator()
    outcomes = with_engine(lambda engine: engine.process(made), generator, redis)
    assert outcomes[made.digests[0]].kind == "ok"
    assert CLAIM_S <= generator.calls[0].at_s < CLAIM_S + 2


def test_one_busy_chunk_does_not_hold_up_the_others(redis: FakeRedis) -> None:
    made = batch(chunk(1), chunk(2))
    redis.claims[made.digests[0]] = ("dead", CLAIM_S)
    generator = FakeGenerator()
    with_engine(lambda engine: engine.process(made), generator, redis)
    assert [call.ids for call in generator.calls] == [["en-2"], ["en-1"]]
    assert generator.calls[0].at_s < 1


def test_claims_are_renewed_while_a_call_lasts(redis: FakeRedis) -> None:
    generator = FakeGenerator(latency_s=lambda _: 95)
    made = batch(chunk(1))
    expiries: list[float] = []

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.process(made))
        await asyncio.sleep(0.5)
        while not task.done():
            if made.digests[0] in redis.claims:
                expiries.append(redis.claims[made.digests[0]][1] - now_s())
            await asyncio.sleep(1)

    with_engine(scenario, generator, redis)
    assert len(expiries) > 90
    assert min(expiries) > CLAIM_S / 2


def test_chunks_wait_while_redis_is_away(redis: FakeRedis) -> None:
    redis.is_away = True
    generator = FakeGenerator()

    async def scenario(engine: Engine) -> dict[str, Outcome]:
        asyncio.get_running_loop().call_later(30, setattr, redis, "is_away", False)
        return await engine.process(batch(chunk(1)))

    assert len(with_engine(scenario, generator, redis)) == 1
    assert generator.calls[0].at_s >= 30


def test_an_answer_is_kept_until_redis_is_back_even_beyond_the_hard_limit(
    redis: FakeRedis,
) -> None:
    generator = FakeGenerator(latency_s=lambda _: 10)

    async def scenario(engine: Engine) -> tuple[dict[str, Outcome], float]:
        loop = asyncio.get_running_loop()
        loop.call_later(5, setattr, redis, "is_away", True)
        loop.call_later(1000, setattr, redis, "is_away", False)
        return await engine.process(batch(chunk(1))), now_s()

    outcomes, at_s = with_engine(scenario, generator, redis)
    assert outcomes == redis.outcomes != {}
    assert at_s >= 1000
    assert len(generator.calls) == 1


def test_a_prompt_holds_neighbours_of_one_language(redis: FakeRedis) -> None:
    generator = FakeGenerator()
    languages: list[Language] = ["en", "en", "en", "ja", "en"]
    made = batch(*(chunk(n, language) for n, language in enumerate(languages)), batch_chunks=2)
    with_engine(lambda engine: engine.process(made), generator, redis)
    prompts = [call.ids for call in generator.calls]
    assert sorted(prompts) == [["en-0", "en-1"], ["en-2"], ["en-4"], ["ja-3"]]


def totals(outcomes: dict[str, Outcome]) -> tuple[int, Usage]:
    """Calls and tokens of all outcomes."""
    return (
        sum(outcome.calls for outcome in outcomes.values()),
        sum((outcome.usage for outcome in outcomes.values()), Usage()),
    )


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_cost_of_a_shared_prompt_counts_once(redis: FakeRedis, language: Language) -> None:
    made = batch(*(chunk(n, language) for n in range(3)), batch_chunks=3)
    outcomes = with_engine(lambda engine: engine.process(made), FakeGenerator(), redis)
    assert [outcomes[d].calls for d in made.digests] == [1, 0, 0]
    assert totals(outcomes) == (1, USAGE)


@pytest.mark.parametrize("forgotten", [[0], [1], [0, 1, 2]])
def test_a_chunk_that_the_answer_forgot_is_asked_alone(
    redis: FakeRedis, forgotten: list[int]
) -> None:
    generator = FakeGenerator(
        lambda call: answer(call.chunks, missing=forgotten if len(call.chunks) > 1 else [])
    )
    made = batch(*map(chunk, range(3)), batch_chunks=3)
    outcomes = with_engine(lambda engine: engine.process(made), generator, redis)
    alone = [call.ids for call in generator.calls[1:]]
    assert alone == [[f"en-{place}"] for place in forgotten]
    assert {outcome.kind for outcome in outcomes.values()} == {"ok"}
    calls = 1 + len(forgotten)
    assert totals(outcomes) == (calls, sum([USAGE] * calls, Usage()))


def test_a_shared_prompt_that_fails_kills_only_the_chunk_at_fault(redis: FakeRedis) -> None:
    generator = FakeGenerator(
        lambda call: (
            RequestRefused("filtered", usage=USAGE) if "en-1" in call.ids else answer(call.chunks)
        )
    )
    made = batch(*map(chunk, range(3)), batch_chunks=3)
    outcomes = with_engine(lambda engine: engine.process(made), generator, redis)
    assert [outcomes[digest].kind for digest in made.digests] == ["ok", "dead", "ok"]
    dead = outcomes[made.digests[1]]
    assert (dead.reason, dead.detail, dead.pairs) == ("refused", "filtered", ())
    assert totals(outcomes) == (4, sum([USAGE] * 4, Usage()))


def test_an_answer_without_an_acceptable_pair_is_a_rejection(redis: FakeRedis) -> None:
    """Also where the only chunk of a prompt is not mentioned: asking alone is what was done."""
    generator = FakeGenerator(lambda call: answer(call.chunks, missing=[0]))
    outcomes = with_engine(lambda engine: engine.process(batch(chunk(1))), generator, redis)
    [outcome] = outcomes.values()
    assert (outcome.kind, outcome.reason) == ("rejected", "no_acceptable_pair")
    assert (outcome.calls, outcome.usage) == (1, USAGE)


def test_a_dead_chunk_counts_every_call_and_hides_keys(redis: FakeRedis) -> None:
    message = "down: Bearer sk-canary-0123456789 " + "x" * 500
    failure = ProviderUnavailable(message, usage=USAGE)
    generator = FakeGenerator(lambda call: answer(call.chunks) if is_other(call) else failure)
    made = batch(chunk(1))
    outcomes = with_engine(lambda e: among_others(e, e.process(made)), generator, redis)
    [outcome] = outcomes.values()
    assert (outcome.kind, outcome.reason) == ("dead", "unavailable")
    assert totals(outcomes) == (4, sum([USAGE] * 4, Usage()))
    assert "canary" not in outcome.detail
    assert len(outcome.detail) == 300


def test_a_dead_chunk_leaves_a_letter_and_no_other_does(redis: FakeRedis) -> None:
    generator = FakeGenerator(
        lambda call: ProviderUnavailable("500") if call.ids == ["ja-1"] else answer(call.chunks)
    )
    made = replace(batch(chunk(0), chunk(1, "ja")), queue="low_priority")
    with_engine(lambda e: among_others(e, e.process(made)), generator, redis)
    written = {notice.digest: notice for write in redis.writes for notice in write}
    assert written[made.digests[0]].letter is None
    letter = written[made.digests[1]].letter
    assert letter is not None
    assert (letter.digest, letter.run_id, letter.reason) == (made.digests[1], "run", "unavailable")
    assert (letter.chunk, letter.config, letter.model) == (chunk(1, "ja"), made.config, made.model)
    assert (letter.queue, letter.calls, letter.attempts) == ("low_priority", 4, 4)


def test_never_more_calls_than_slots_over_all_batches(redis: FakeRedis) -> None:
    generator = FakeGenerator()

    async def scenario(engine: Engine) -> None:
        await asyncio.gather(
            *(engine.process(batch(*map(chunk, range(n, n + 5)))) for n in range(0, 30, 5))
        )

    with_engine(scenario, generator, redis)
    assert len(generator.calls) == 30
    assert generator.peak == LIMITS.calls_in_flight


def test_slots_stay_full_while_one_answer_is_slow(redis: FakeRedis) -> None:
    """Three slots go on with the other chunks while the first chunk's call holds one."""
    generator = FakeGenerator(latency_s=lambda call: 50 if call.ids == ["en-0"] else 1)
    made = batch(*map(chunk, range(100)))
    seen: list[int] = []

    async def scenario(engine: Engine) -> None:
        task = asyncio.create_task(engine.process(made))
        for second in range(30):
            await asyncio.sleep(second + 0.5 - now_s())
            seen.append(engine.calls_in_flight)
        await task

    with_engine(scenario, generator, redis)
    assert seen == [LIMITS.calls_in_flight] * 30


def test_the_soft_limit_hands_back_what_has_not_begun_and_records_what_has(
    redis: FakeRedis,
) -> None:
    generator = FakeGenerator(latency_s=lambda _: 55)
    made = batch(*map(chunk, range(28)))

    async def scenario(engine: Engine) -> tuple[dict[str, Outcome], float]:
        return await engine.process(made), now_s()

    outcomes, at_s = with_engine(scenario, generator, redis)
    # Four slots: rounds begin at 0, 55, 110, 165 and 220; the last one ends after the limit.
    assert len(outcomes) == len(generator.calls) == 20
    assert outcomes == redis.outcomes
    assert LIMITS.soft_limit_s < at_s < 276
    assert redis.claims == {}


def test_the_hard_limit_cancels_the_calls_on_the_wire(redis: FakeRedis) -> None:
    limits = Limits(calls_in_flight=4, call_timeout_s=500, soft_limit_s=270, hard_limit_s=300)
    generator = FakeGenerator(latency_s=lambda _: 400)

    async def scenario(engine: Engine) -> tuple[dict[str, Outcome], float]:
        return await engine.process(batch(chunk(1))), now_s()

    outcomes, at_s = with_engine(scenario, generator, redis, limits)
    assert outcomes == redis.outcomes == {}
    assert 300 <= at_s < 301
    assert generator.in_flight == 0
    assert redis.claims == {}


def test_a_drain_finishes_the_calls_on_the_wire_and_takes_nothing_new(redis: FakeRedis) -> None:
    generator = FakeGenerator(latency_s=lambda _: 10)
    made = batch(*map(chunk, range(20)))

    async def scenario(engine: Engine) -> tuple[dict[str, Outcome], dict[str, Outcome], float]:
        asyncio.get_running_loop().call_later(3, engine.drain)
        outcomes = await engine.process(made)
        at_s = now_s()
        return outcomes, await engine.process(batch(chunk(99))), at_s

    outcomes, later, at_s = with_engine(scenario, generator, redis)
    assert (len(outcomes), len(later)) == (4, 0)
    assert outcomes == redis.outcomes
    assert len(generator.calls) == 4
    assert 10 <= at_s < 11
    assert redis.claims == {}


def test_a_drain_ends_the_wait_for_another_process(redis: FakeRedis) -> None:
    made = batch(chunk(1))
    redis.claims[made.digests[0]] = ("another", 1e9)

    async def scenario(engine: Engine) -> tuple[dict[str, Outcome], float]:
        asyncio.get_running_loop().call_later(5, engine.drain)
        return await engine.process(made), now_s()

    outcomes, at_s = with_engine(scenario, FakeGenerator(), redis)
    assert outcomes == {}
    assert at_s < 7
    assert redis.claims[made.digests[0]][0] == "another"


def test_a_drain_ends_the_wait_for_redis(redis: FakeRedis) -> None:
    redis.is_away = True

    async def scenario(engine: Engine) -> dict[str, Outcome]:
        asyncio.get_running_loop().call_later(5, engine.drain)
        return await engine.process(batch(chunk(1)))

    assert with_engine(scenario, FakeGenerator(), redis) == {}


def test_a_drain_while_the_account_is_broken_hands_back_at_once(redis: FakeRedis) -> None:
    generator = FakeGenerator(lambda _: HaltError("no quota"))

    async def scenario(engine: Engine) -> tuple[dict[str, Outcome], str, float]:
        asyncio.get_running_loop().call_later(40, engine.drain)
        outcomes = await engine.process(batch(*map(chunk, range(8))))
        return outcomes, str(engine.halted_by), now_s()

    outcomes, halted_by, at_s = with_engine(scenario, generator, redis)
    assert (outcomes, halted_by) == ({}, "no quota")
    assert at_s < 41
    assert redis.claims == {}


def test_a_defect_of_ours_ends_its_chunk_and_no_other(redis: FakeRedis) -> None:
    """Else its task would fail again and again, with its neighbours, and hold their claims."""
    generator = FakeGenerator(replies(ValueError("a defect")))

    async def scenario(engine: Engine) -> dict[str, Outcome]:
        return await engine.process(batch(chunk(1), chunk(2)))

    outcomes = with_engine(scenario, generator, redis).values()
    assert sorted((o.kind, o.reason) for o in outcomes) == [("dead", "internal"), ("ok", "")]
    assert redis.claims == {}


def test_a_cancelled_batch_leaves_no_claim_behind(redis: FakeRedis) -> None:
    """Else nobody could take the chunk for as long as this process lives."""
    made = batch(chunk(1))

    async def scenario(engine: Engine) -> dict[str, Outcome]:
        cancelled = asyncio.create_task(engine.process(made))
        await asyncio.sleep(0.5)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert redis.claims == {}
        return await engine.process(made)

    assert len(with_engine(scenario, FakeGenerator(), redis)) == 1


async def deliver(engine: Engine, made: Batch) -> list[int]:
    """Process a batch until no message is left; how many outcomes each delivery had."""
    found: list[int] = []
    while not found or found[-1] < len(made.digests):
        assert len(found) < 50, "it goes on for ever"
        found.append(len(await engine.process(made)))
        await asyncio.sleep(1)
    return found


@pytest.mark.parametrize(
    ("latency_s", "deliveries"), [(10_000, 2), (70, 1), (90, 2)], ids=["never", "70 s", "90 s"]
)
def test_a_chunk_whose_calls_all_fail_is_dead_after_four_of_all_deliveries(
    redis: FakeRedis, latency_s: float, deliveries: int
) -> None:
    """Four calls of 100 s and the waits between them do not fit into a task."""
    failed: list[Call] = []

    def reply(call: Call) -> Answer | Exception:
        if is_other(call):
            return answer(call.chunks)
        failed.append(call)
        return ProviderUnavailable("500", usage=USAGE)

    generator = FakeGenerator(reply, latency_s=lambda call: 1 if is_other(call) else latency_s)
    made = batch(*map(chunk, range(4)))
    limits = replace(LIMITS, calls_in_flight=5)
    found = with_engine(lambda e: among_others(e, deliver(e, made)), generator, redis, limits)
    assert len(found) == deliveries
    assert sum(not is_other(call) for call in generator.calls) == 16
    for digest in made.digests:
        outcome = redis.outcomes[digest]
        assert (outcome.kind, outcome.reason, outcome.calls) == ("dead", "unavailable", 4)
        assert outcome.usage.input == USAGE.input * len(failed) / 4
    assert redis.spent == {}


@pytest.mark.parametrize("call_timeout_s", [100, 500])
def test_chunks_of_a_prompt_whose_calls_all_fail_end_too(
    redis: FakeRedis, call_timeout_s: float
) -> None:
    limits = Limits(4, call_timeout_s, LIMITS.soft_limit_s, LIMITS.hard_limit_s)
    generator = FakeGenerator(latency_s=lambda call: 1 if is_other(call) else 10_000)
    made = batch(*map(chunk, range(3)), batch_chunks=3)
    with_engine(lambda e: among_others(e, deliver(e, made)), generator, redis, limits)
    outcomes = {digest: redis.outcomes[digest] for digest in made.digests}
    assert {outcome.reason for outcome in outcomes.values()} == {"unavailable"}
    calls = sum(not is_other(call) for call in generator.calls)
    assert totals(outcomes)[0] == calls <= 4 + 3


@pytest.mark.parametrize("chunks", [1, 4])
def test_in_an_outage_no_chunk_dies_however_few_are_left(redis: FakeRedis, chunks: int) -> None:
    generator = FakeGenerator(
        lambda call: ProviderUnavailable("503") if call.at_s < 600 else answer(call.chunks)
    )
    made = batch(*map(chunk, range(chunks)))

    async def scenario(engine: Engine) -> float:
        await deliver(engine, made)
        return now_s()

    assert with_engine(scenario, generator, redis) < 620
    assert {outcome.kind for outcome in redis.outcomes.values()} == {"ok"}


@pytest.mark.parametrize("chunks", [1, 4])
def test_chunks_that_are_left_and_never_answered_end_at_last(redis: FakeRedis, chunks: int) -> None:
    generator = FakeGenerator(lambda _: ProviderUnavailable("503"))
    made = batch(*map(chunk, range(chunks)))
    with_engine(lambda engine: deliver(engine, made), generator, redis)
    assert {outcome.reason for outcome in redis.outcomes.values()} == {"unavailable"}
    assert len(generator.calls) <= chunks * (MOST_PROBES + ATTEMPTS)


def test_who_holds_the_account_by_itself_does_so_once(redis: FakeRedis) -> None:
    """Another process may be answered all the time, so that the hold is released at once."""
    holds = FakeHolds()
    generator = FakeGenerator(lambda _: ProviderUnavailable("500"))

    async def scenario() -> int:
        async with running(generator, FakeStore(redis), shared(holds), LIMITS) as engine:
            asking = asyncio.create_task(engine.process(batch(chunk(1))))
            found = 0
            while not asking.done():
                await asyncio.sleep(0.5)
                for scope in tuple(holds.held):
                    found += await holds.release(scope)
            return found

    assert run(scenario()) == 1
    assert [outcome.reason for outcome in redis.outcomes.values()] == ["unavailable"]


def test_the_chances_of_a_chunk_are_those_of_all_deliveries(redis: FakeRedis) -> None:
    failures = [AnswerTruncated(), AnswerInvalid("no JSON")] * 2
    generator = FakeGenerator(replies(*failures))
    made = batch(chunk(1))

    async def scenario(engine: Engine) -> list[int]:
        found = []
        for _ in range(3):
            asking = asyncio.create_task(engine.process(made))
            asyncio.get_running_loop().call_later(0.5, engine.drain)
            found.append(len(await asking))
            engine._is_draining = False
        return found

    assert with_engine(scenario, generator, redis) == [0, 0, 1]
    asked = [(call.cap_factor, call.repair) for call in generator.calls]
    assert asked == [(1.0, None), (2.0, None), (2.0, "no JSON")]
    assert [outcome.reason for outcome in redis.outcomes.values()] == ["truncated"]


def test_what_was_spent_in_vain_counts_in_the_run_and_in_no_other(redis: FakeRedis) -> None:
    failures = [ProviderUnavailable("x", usage=USAGE)] * 2
    generator = FakeGenerator(replies(*failures), latency_s=lambda _: 99)
    made = batch(chunk(1))

    async def scenario(engine: Engine) -> None:
        assert await engine.process(made) == {}
        assert redis.spent == {
            ("run", made.digests[0]): Spent(attempts=3, calls=3, usage=USAGE + USAGE)
        }
        await engine.process(made)

    with_engine(scenario, generator, redis)
    [outcome] = redis.outcomes.values()
    assert (outcome.kind, outcome.calls) == ("ok", 4)


@pytest.mark.parametrize("passing", [ProviderThrottled(retry_after_s=60), HaltError(), None])
def test_a_hand_back_that_is_no_fault_of_the_chunk_costs_no_attempt(
    redis: FakeRedis, passing: CallError | None
) -> None:
    """None: the second chunk waits for the only slot, and its call never begins."""
    limits = Limits(1, 500, LIMITS.soft_limit_s, LIMITS.hard_limit_s)
    generator = FakeGenerator(
        lambda call: passing or answer(call.chunks), latency_s=lambda _: 1 if passing else 290
    )
    made = batch(chunk(1), chunk(2))
    with_engine(lambda engine: engine.process(made), generator, redis, limits)
    assert all(spent.attempts == 0 for spent in redis.spent.values())
    assert bool(redis.spent) == (passing is not None)


def test_a_dead_chunk_of_one_run_is_asked_again_for_another_that_waited_for_it(
    redis: FakeRedis,
) -> None:
    generator = FakeGenerator(replies(RequestRefused("filtered")))

    async def scenario(engine: Engine) -> Pair:
        return await asyncio.gather(
            engine.process(batch(chunk(1), run_id="a")), engine.process(batch(chunk(1), run_id="b"))
        )

    first, second = with_engine(scenario, generator, redis)
    assert [(o.kind, o.run_id) for o in first.values()] == [("dead", "a")]
    assert [(o.kind, o.run_id) for o in second.values()] == [("ok", "b")]


def test_a_redis_that_comes_back_empty_lets_no_two_batches_claim_a_chunk(redis: FakeRedis) -> None:
    redis.is_away = True
    generator = FakeGenerator(latency_s=lambda _: 5)

    async def scenario(engine: Engine) -> Pair:
        first = asyncio.create_task(engine.process(batch(chunk(1), run_id="a")))
        await asyncio.sleep(0.5)
        second = asyncio.create_task(engine.process(batch(chunk(1), run_id="b")))
        await asyncio.sleep(0.4)
        redis.is_away = False
        await asyncio.sleep(0.3)
        redis.claims.clear()
        return await asyncio.gather(first, second)

    first, second = with_engine(scenario, generator, redis)
    assert first == second
    assert len(generator.calls) == 1


def test_a_claim_whose_grant_got_lost_is_ours(redis: FakeRedis) -> None:
    class Lossy(FakeStore):
        losses = 1

        async def claim(self, digests: Sequence[str], run_id: str) -> Claims:
            claims = await super().claim(digests, run_id)
            if self.losses:
                self.losses -= 1
                raise StoreUnavailable
            return claims

    generator = FakeGenerator()
    with_engine(lambda e: e.process(batch(chunk(1))), generator, redis, store=Lossy)
    assert generator.calls[0].at_s < 2


def test_a_renewal_under_way_does_not_revive_a_claim_that_was_given_up(redis: FakeRedis) -> None:
    class Slow(FakeStore):
        async def renew(self, digests: Sequence[str]) -> None:
            await asyncio.sleep(0.1)
            await super().renew(digests)

    async def scenario(engine: Engine) -> dict[str, tuple[str, float]]:
        cancelled = asyncio.create_task(engine.process(batch(chunk(1))))
        await asyncio.sleep(CLAIM_S / 4 + 0.05)
        cancelled.cancel()
        await asyncio.sleep(1)
        return redis.claims

    generator = FakeGenerator(latency_s=lambda _: 50)
    assert with_engine(scenario, generator, redis, store=Slow) == {}


def test_a_model_that_is_refused_holds_no_other_and_keeps_no_slot(redis: FakeRedis) -> None:
    wrong, right = "gpt-5-mni", "gpt-5-mini"
    generator = FakeGenerator(
        lambda call: ModelRefused("no such model") if call.model == wrong else answer(call.chunks)
    )

    async def scenario(engine: Engine) -> tuple[float, str]:
        held = asyncio.create_task(engine.process(batch(*map(chunk, range(8)), model=wrong)))
        await asyncio.sleep(5)
        await engine.process(batch(*map(chunk, range(8)), model=right))
        at_s, halted_by = now_s(), str(engine.halted_by)
        engine.drain()
        assert await held == {}
        return at_s, halted_by

    at_s, halted_by = with_engine(scenario, generator, redis)
    assert at_s < 8
    assert halted_by == "no such model"


def test_a_write_that_cannot_be_done_ends_its_batch_and_no_other(redis: FakeRedis) -> None:
    poison, good = batch(chunk(1)), batch(chunk(2))

    class Picky(FakeStore):
        async def write(self, notices: Sequence[Notice], counts: Portion) -> None:
            if any(notice.digest in poison.digests for notice in notices):
                raise ValueError("poison")
            await super().write(notices, counts)

    async def scenario(engine: Engine) -> dict[str, Outcome]:
        async with asyncio.timeout(100):
            bad = asyncio.create_task(engine.process(poison))
            outcomes = await engine.process(good)
            with pytest.raises(ExceptionGroup) as caught:
                await bad
        assert caught.group_contains(ValueError, match="poison")
        return outcomes

    assert with_engine(scenario, FakeGenerator(), redis, store=Picky) == redis.outcomes != {}
    assert redis.claims == {}


def test_claims_are_renewed_also_after_a_defect_in_one_renewal(redis: FakeRedis) -> None:
    class Faulty(FakeStore):
        faults = 1

        async def renew(self, digests: Sequence[str]) -> None:
            if self.faults:
                self.faults -= 1
                raise ValueError("a defect")
            await super().renew(digests)

    made = batch(chunk(1))

    async def scenario(engine: Engine) -> float:
        task = asyncio.create_task(engine.process(made))
        await asyncio.sleep(90)
        expires_at = redis.claims[made.digests[0]][1]
        await task
        return expires_at

    generator = FakeGenerator(latency_s=lambda _: 95)
    assert with_engine(scenario, generator, redis, store=Faulty) > 90


def test_ends_although_a_cancellation_gets_lost(redis: FakeRedis) -> None:
    class Deaf(FakeStore):
        async def renew(self, digests: Sequence[str]) -> None:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(CLAIM_S)
            await super().renew(digests)

    async def scenario() -> float:
        async with running(FakeGenerator(), Deaf(redis), shared(), LIMITS):
            await asyncio.sleep(CLAIM_S / 4 + 1)
        return now_s()

    assert run(scenario()) < CLAIM_S / 4 + 2


def test_chunks_done_counts_what_this_process_wrote(redis: FakeRedis) -> None:
    async def scenario(engine: Engine) -> list[int]:
        counted = [engine.chunks_done]
        for made in (batch(chunk(1), chunk(2)), batch(chunk(2), chunk(3))):
            await engine.process(made)
            counted.append(engine.chunks_done)
        return counted

    assert with_engine(scenario, FakeGenerator(), redis) == [0, 2, 3]


def admitted(
    redis: FakeRedis, generator: FakeGenerator, made: Sequence[Batch], *, pause_s: float = 0.0
) -> list[bool]:
    """Whether an engine admits more: before, while and after it has these batches."""

    async def scenario() -> list[bool]:
        lent = shared()
        await lent.limiter.pause(made[0].model, pause_s)
        async with running(generator, FakeStore(redis), lent, LIMITS) as engine:
            found = [engine.admits]
            tasks = [asyncio.create_task(engine.process(one)) for one in made]
            await asyncio.sleep(0.5)
            found.append(engine.admits)
            redis.is_away = False
            engine.drain()
            await asyncio.gather(*tasks)
            return [*found, engine.admits]

    return run(scenario())


def test_more_is_admitted_while_slots_are_all_the_chunks_wait_for(redis: FakeRedis) -> None:
    made = [batch(*map(chunk, range(n, n + 50))) for n in (0, 50)]
    assert admitted(redis, FakeGenerator(), made) == [True, True, True]


def test_no_more_is_admitted_than_the_limiter_grants_soon(redis: FakeRedis) -> None:
    made = [batch(chunk(1), chunk(2))]
    assert admitted(redis, FakeGenerator(), made, pause_s=10) == [True, True, True]
    assert admitted(redis, FakeGenerator(), made, pause_s=100) == [True, False, True]


@pytest.mark.parametrize(
    ("fast", "slow", "is_admitted"),
    [(1, 1, True), (1, MOST_SLOW - 1, True), (1, MOST_SLOW, False), (0, 1, False)],
)
def test_a_slow_model_keeps_others_out_only_when_it_has_much_of_the_process(
    redis: FakeRedis, fast: int, slow: int, *, is_admitted: bool
) -> None:
    class SlowLimiter(FakeLimiter):
        async def exchange(
            self, model: str, settle: Sequence[Settlement], reserve: Sequence[int]
        ) -> Exchanged:
            if model == "slow" and reserve:
                return Exchanged((), 100.0)
            return await super().exchange(model, settle, reserve)

    def task(number: int, model: str) -> Batch:
        chunks = map(chunk, range(16 * number, 16 * number + 16))
        return replace(batch(*chunks), model=model)

    async def scenario() -> bool:
        lent = replace(shared(), limiter=SlowLimiter())
        async with running(FakeGenerator(), FakeStore(redis), lent, LIMITS) as engine:
            for number in range(fast):
                await engine.process(task(100 + number, "fast"))
            waiting = [engine.process(task(number, "slow")) for number in range(slow)]
            working = asyncio.gather(*waiting)
            await asyncio.sleep(1)
            found = engine.admits
            engine.drain()
            await working
            return found

    assert run(scenario()) is is_admitted


def test_no_more_is_admitted_until_the_limiter_has_judged_what_there_is(redis: FakeRedis) -> None:
    redis.is_away = True
    made = [batch(*map(chunk, range(MOST_UNDECIDED)))]
    assert admitted(redis, FakeGenerator(), made) == [True, False, True]


def test_one_task_is_admitted_to_try_with_while_the_account_is_held(redis: FakeRedis) -> None:
    made = [batch(chunk(1))]
    generator = FakeGenerator(lambda _: HaltError("no quota"), latency_s=lambda _: 0.0)
    assert admitted(redis, generator, made) == [True, False, True]
