from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest

from qaworker.engine.gate import Gates
from qaworker.engine.ladder import BACKOFF_S, Ladder
from qaworker.engine.meter import Meter
from qaworker.engine.prompt import HandedBack, Prompt
from qaworker.engine.suspects import Suspects
from qaworker.engine.turnstile import Turnstile
from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    CallError,
    ChunkTooLarge,
    HaltError,
    ProviderThrottled,
    ProviderUnavailable,
    RequestRefused,
)
from qaworker.llm.generator import Answer
from qaworker.models import Language, Usage
from qaworker.store.counters import Counts
from tests.support.virtual_time import now_s, run
from tests.unit.engine.fakes import (
    USAGE,
    Call,
    FakeGenerator,
    FakeHolds,
    FakeLimiter,
    FakeRedis,
    FakeStore,
    answer,
    batch,
    chunk,
    keeping,
    price,
    purse,
    replies,
)

CALL_TIMEOUT_S = 100.0


def prompt_of(language: Language = "en") -> Prompt:
    made = batch(chunk(language=language))
    return Prompt(made.chunks, made.config, made.model, usage=Usage(), calls=0)


def ladder_on(
    generator: FakeGenerator,
    *,
    gates: Gates | None = None,
    slots: int = 4,
    counts: Counts | None = None,
    limiter: FakeLimiter | None = None,
) -> Ladder:
    turnstile = Turnstile(limiter or FakeLimiter(), calls_in_flight=slots)
    suspects = Suspects(FakeStore(FakeRedis()))
    return Ladder(
        generator,
        gates or Gates(),
        turnstile,
        purse(),
        suspects,
        Meter(Counts() if counts is None else counts, price),
        call_timeout_s=CALL_TIMEOUT_S,
    )


async def asked(generator: FakeGenerator, prompt: Prompt) -> Answer:
    return await ladder_on(generator).ask(prompt)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_an_answer_at_once_is_one_call(language: Language) -> None:
    generator, prompt = FakeGenerator(), prompt_of(language)
    answer = run(asked(generator, prompt))
    assert answer.pairs[0][0].answer == prompt.chunks[0].text
    assert (prompt.calls, prompt.usage) == (1, USAGE)
    assert [(c.cap_factor, c.repair) for c in generator.calls] == [(1.0, None)]


@pytest.mark.parametrize("is_usable", [True, False])
@pytest.mark.parametrize(
    ("usage", "given_back"),
    [
        (Usage(input=40, output=20), 40),
        # Some servers tell nothing, or only half of it.
        (Usage(), None),
        (Usage(output=20), None),
    ],
)
def test_what_a_server_does_not_tell_stays_reserved(
    usage: Usage, given_back: int | None, *, is_usable: bool
) -> None:
    def reply(call: Call) -> Answer | Exception:
        if is_usable:
            return replace(answer(call.chunks), usage=usage)
        return RequestRefused("no", usage=usage)

    limiter = FakeLimiter()

    async def scenario() -> None:
        with suppress(RequestRefused):
            await ladder_on(FakeGenerator(reply), limiter=limiter).ask(prompt_of())
        await asyncio.sleep(1)

    run(scenario())
    expected = [] if given_back is None else [given_back]
    assert [settled.tokens_back for settled in limiter.settled] == expected


async def asked_beside(generator: FakeGenerator, prompt: Prompt) -> Answer:
    """Ask while another prompt, in Japanese, is asked again and again."""
    ladder = ladder_on(generator)

    async def others() -> None:
        while True:
            await ladder.ask(prompt_of("ja"))

    neighbour = asyncio.create_task(others())
    try:
        return await ladder.ask(prompt)
    finally:
        neighbour.cancel()


def english(call: Call) -> bool:
    return call.chunks[0].language == "en"


def test_an_unavailable_provider_is_asked_four_times_at_most() -> None:
    generator, prompt = (
        FakeGenerator(lambda c: ProviderUnavailable() if english(c) else answer(c.chunks)),
        prompt_of(),
    )
    with pytest.raises(ProviderUnavailable):
        run(asked_beside(generator, prompt))
    assert prompt.calls == sum(map(english, generator.calls)) == 4


def test_the_waits_between_attempts_grow_with_jitter() -> None:
    generator = FakeGenerator(replies(*[ProviderUnavailable()] * 3), latency_s=lambda _: 0.0)
    run(asked(generator, prompt_of()))
    begun = [call.at_s for call in generator.calls]
    waits = [later - earlier for earlier, later in pairwise(begun)]
    assert all(
        0.75 * backoff <= wait <= 1.25 * backoff
        for wait, backoff in zip(waits, BACKOFF_S, strict=True)
    )
    assert waits != list(BACKOFF_S)


def test_nobody_holds_a_slot_while_waiting_to_try_again() -> None:
    generator = FakeGenerator(replies(ProviderUnavailable()))
    ladder = ladder_on(generator, slots=1)

    async def scenario() -> None:
        await asyncio.gather(*(ladder.ask(prompt_of()) for _ in range(3)))

    run(scenario())
    assert [call.at_s for call in generator.calls][:3] == [0, 1, 2]


def test_a_call_that_outlasts_its_time_counts_as_unavailable() -> None:
    generator = FakeGenerator(latency_s=lambda c: CALL_TIMEOUT_S + 1 if english(c) else 1)
    with pytest.raises(ProviderUnavailable, match="no answer within 100 s"):
        run(asked_beside(generator, prompt_of()))
    assert sum(map(english, generator.calls)) == 4


@pytest.mark.parametrize(("asked_s", "pause_s"), [(42, 42), (0, 0), (None, 5)])
def test_a_throttled_call_pauses_for_as_long_as_the_provider_asks(
    asked_s: float | None, pause_s: float
) -> None:
    throttled = replies(ProviderThrottled(retry_after_s=asked_s))
    generator = FakeGenerator(throttled, latency_s=lambda _: 0.0)
    run(asked(generator, prompt_of()))
    assert [call.at_s for call in generator.calls] == pytest.approx([0, pause_s], abs=0.1)


def test_a_throttled_call_pauses_every_other_caller() -> None:
    throttled = replies(ProviderThrottled(retry_after_s=42))
    generator = FakeGenerator(throttled, latency_s=lambda _: 1.0)
    ladder = ladder_on(generator, slots=1)

    async def scenario() -> None:
        await asyncio.gather(*(ladder.ask(prompt_of()) for _ in range(2)))

    run(scenario())
    assert [call.at_s for call in generator.calls] == pytest.approx([0, 43, 44], abs=0.1)


async def held(generator: FakeGenerator, *prompts: Prompt) -> Gates:
    """Ask while the gates are kept as the holds are."""
    gates = Gates()
    ladder = ladder_on(generator, gates=gates)
    async with keeping(gates, FakeHolds()):
        await asyncio.gather(*map(ladder.ask, prompts), return_exceptions=True)
        await asyncio.sleep(1)
    return gates


@pytest.mark.parametrize(
    ("passing", "attempts"), [(ProviderThrottled(retry_after_s=1), 3), (HaltError(), 0)]
)
def test_what_is_no_fault_of_the_chunk_costs_no_attempt(passing: CallError, attempts: int) -> None:
    """While the account is held, that nobody answers is none either."""
    failures = [passing] * 20 + [ProviderUnavailable()] * 3
    prompt = prompt_of()
    run(held(FakeGenerator(replies(*failures)), prompt))
    assert (prompt.calls, prompt.attempts) == (24, attempts)


def test_a_broken_account_is_probed_by_one_call_at_a_time_until_it_works() -> None:
    generator = FakeGenerator(replies(*[HaltError("no quota")] * 5), latency_s=lambda _: 1.0)
    gates = run(held(generator, *(prompt_of() for _ in range(3))))
    begun = [call.at_s for call in generator.calls]
    assert begun == pytest.approx([0, 0, 0, 16, 31, 46, 47, 47], abs=1.1)
    assert begun[6] == begun[7] < begun[5] + 1.1
    assert gates.halted_by is None


@pytest.mark.parametrize("answer", [AnswerInvalid("no JSON"), RequestRefused("content filter")])
def test_any_answer_of_the_provider_shows_that_the_account_works(answer: CallError) -> None:
    generator = FakeGenerator(replies(HaltError("no quota"), answer))
    gates = run(held(generator, prompt_of()))
    assert gates.halted_by is None


def test_a_call_from_before_a_hold_shows_nothing_after_it() -> None:
    """Its error is old news, and whether it was the chunk's fault nobody knows."""

    def latency(call: Call) -> float:
        return 60 if call.at_s == 0 and call.ids == ["ja-0"] else 1

    errors: dict[float, CallError] = {1: HaltError("no quota"), 60: ProviderUnavailable()}
    generator = FakeGenerator(
        lambda call: errors.pop(latency(call), None) or answer(call.chunks),
        latency_s=latency,
    )

    quick, slow = prompt_of(), prompt_of("ja")
    gates = run(held(generator, quick, slow))
    assert errors == {}
    assert (slow.calls, slow.attempts) == (2, 0)
    assert gates.halted_by is None


def test_a_call_that_runs_out_of_memory_is_handed_back() -> None:
    with pytest.raises(HandedBack):
        run(asked(FakeGenerator(replies(MemoryError())), prompt_of()))


def test_a_truncated_answer_is_asked_for_once_with_a_larger_cap() -> None:
    generator, prompt = FakeGenerator(replies(AnswerTruncated(usage=USAGE))), prompt_of()
    run(asked(generator, prompt))
    assert [call.cap_factor for call in generator.calls] == [1.0, 2.0]
    assert prompt.usage == USAGE + USAGE


def test_a_second_truncated_answer_is_the_end() -> None:
    generator = FakeGenerator(replies(*[AnswerTruncated()] * 2))
    with pytest.raises(AnswerTruncated):
        run(asked(generator, prompt_of()))
    assert len(generator.calls) == 2


def test_an_invalid_answer_is_repaired_once_with_what_was_wrong() -> None:
    generator = FakeGenerator(replies(AnswerInvalid("pairs: missing", usage=USAGE)))
    prompt = prompt_of()
    run(asked(generator, prompt))
    assert [call.repair for call in generator.calls] == [None, "pairs: missing"]
    assert prompt.usage == USAGE + USAGE


def test_a_second_invalid_answer_is_the_end() -> None:
    generator = FakeGenerator(replies(AnswerInvalid("first"), AnswerInvalid("second")))
    with pytest.raises(AnswerInvalid, match="second"):
        run(asked(generator, prompt_of()))
    assert len(generator.calls) == 2


def test_the_chances_of_each_kind_are_counted_apart() -> None:
    failures = [
        AnswerTruncated(),
        ProviderUnavailable(),
        AnswerInvalid("bad"),
        ProviderUnavailable(),
        ProviderUnavailable(),
    ]
    generator = FakeGenerator(replies(*failures))
    run(asked(generator, prompt_of()))
    last = generator.calls[-1]
    assert len(generator.calls) == 6
    assert (last.cap_factor, last.repair) == (2.0, "bad")


@pytest.mark.parametrize("error", [RequestRefused("no", usage=USAGE), ChunkTooLarge()])
def test_a_permanent_failure_is_never_tried_again(error: CallError) -> None:
    generator, prompt = FakeGenerator(replies(error)), prompt_of()
    with pytest.raises(type(error)):
        run(asked(generator, prompt))
    assert len(generator.calls) == 1
    assert prompt.usage == (error.usage or Usage())


def test_no_more_calls_than_slots_are_on_the_wire_and_none_stays_empty() -> None:
    generator = FakeGenerator()
    ladder = ladder_on(generator, slots=4)

    async def scenario() -> float:
        await asyncio.gather(*(ladder.ask(prompt_of()) for _ in range(12)))
        return now_s()

    assert run(scenario()) == 3
    assert generator.peak == 4
    assert ladder.calls_in_flight == 0


def stopped_after(seconds: float, generator: FakeGenerator, prompt: Prompt) -> float:
    """When a prompt that is stopped so late is handed back."""

    async def scenario() -> float:
        asyncio.get_running_loop().call_later(seconds, prompt.stop)
        with pytest.raises(HandedBack):
            await ladder_on(generator).ask(prompt)
        return now_s()

    return run(scenario())


def test_a_stop_while_waiting_to_try_again_hands_back_at_once() -> None:
    generator = FakeGenerator(replies(ProviderUnavailable()))
    assert stopped_after(2, generator, prompt_of()) == 2
    assert len(generator.calls) == 1


def test_a_stop_during_a_pause_hands_back_at_once() -> None:
    generator = FakeGenerator(replies(ProviderThrottled(retry_after_s=60)))
    assert stopped_after(30, generator, prompt_of()) == 30
    assert len(generator.calls) == 1


def test_a_stop_while_waiting_for_a_slot_hands_back_and_frees_it() -> None:
    generator = FakeGenerator(latency_s=lambda _: 10.0)
    ladder = ladder_on(generator, slots=1)
    waiting = prompt_of()

    async def scenario() -> float:
        first = asyncio.create_task(ladder.ask(prompt_of()))
        asyncio.get_running_loop().call_later(3, waiting.stop)
        await asyncio.sleep(0)
        with pytest.raises(HandedBack):
            await ladder.ask(waiting)
        at_s = now_s()
        await first
        await ladder.ask(prompt_of())
        return at_s

    assert run(scenario()) == 3
    assert [call.at_s for call in generator.calls] == [0, 10]


def test_a_stop_before_the_first_call_prevents_it() -> None:
    generator, prompt = FakeGenerator(), prompt_of()
    prompt.stop()
    with pytest.raises(HandedBack):
        run(asked(generator, prompt))
    assert not generator.calls


def test_a_stop_during_a_call_lets_it_answer() -> None:
    generator, prompt = FakeGenerator(latency_s=lambda _: 10.0), prompt_of()

    async def scenario() -> float:
        asyncio.get_running_loop().call_later(4, prompt.stop)
        await ladder_on(generator).ask(prompt)
        return now_s()

    assert run(scenario()) == 10


def test_a_stopped_call_that_fails_is_handed_back_instead_of_tried_again() -> None:
    generator = FakeGenerator(replies(ProviderUnavailable()), latency_s=lambda _: 10.0)
    assert stopped_after(4, generator, prompt_of()) == 10
    assert len(generator.calls) == 1


def test_a_stopped_call_that_fails_for_good_is_not_paid_for_again() -> None:
    generator = FakeGenerator(replies(RequestRefused()), latency_s=lambda _: 10.0)
    prompt = prompt_of()

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(4, prompt.stop)
        await ladder_on(generator).ask(prompt)

    with pytest.raises(RequestRefused):
        run(scenario())


def test_an_abort_cancels_the_call_on_the_wire() -> None:
    generator, prompt = FakeGenerator(latency_s=lambda _: 10.0), prompt_of()
    ladder = ladder_on(generator)

    async def scenario() -> float:
        asyncio.get_running_loop().call_later(4, prompt.abort)
        with pytest.raises(HandedBack):
            await ladder.ask(prompt)
        return now_s()

    assert run(scenario()) == 4
    assert (generator.answered, generator.in_flight, ladder.calls_in_flight) == (0, 0, 0)
    assert (prompt.calls, prompt.attempts) == (1, 1)


def test_an_abort_of_the_last_call_allowed_is_the_end() -> None:
    generator, prompt = FakeGenerator(latency_s=lambda _: 10.0), prompt_of()
    prompt.attempts, prompt.probes = 3, 1

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(4, prompt.abort)
        await ladder_on(generator).ask(prompt)

    with pytest.raises(ProviderUnavailable, match="no answer within 4 s"):
        run(scenario())


def test_an_abort_at_the_moment_a_call_runs_out_of_time_is_none_too_many() -> None:
    generator, prompt = FakeGenerator(latency_s=lambda _: CALL_TIMEOUT_S + 1), prompt_of()

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        failures: list[object] = []
        loop.set_exception_handler(lambda _, context: failures.append(context))
        loop.call_later(1, loop.call_at, CALL_TIMEOUT_S, prompt.abort)
        with pytest.raises(HandedBack):
            await ladder_on(generator).ask(prompt)
        assert failures == []

    run(scenario())


def test_every_call_is_counted_and_every_one_that_is_made_again_with_its_reason() -> None:
    """Also when it ends for lack of time, and with how long it took."""
    counts = Counts()
    errors = ProviderThrottled(retry_after_s=1), AnswerInvalid(usage=USAGE), None
    generator = FakeGenerator(
        replies(*errors), latency_s=lambda call: 2.0 if call.at_s else 2 * CALL_TIMEOUT_S
    )
    run(ladder_on(generator, counts=counts).ask(prompt_of()))
    counted = {name for name, _ in counts.take().counts}
    assert {"failures|unavailable", "failures|throttled", "failures|invalid"} <= counted
    assert {"retries|unavailable", "retries|throttled", "retries|invalid"} <= counted
    assert {"requests|ok", "call|100", "call|2"} <= counted
