from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from qaworker.client.driver import CHUNKS_PER_TASK
from qaworker.client.planning import LATENCY_S, Plan, Terms, make_plan, prompts
from qaworker.corpus import tokens
from qaworker.engine import sharing
from qaworker.limits.rates import Rates
from qaworker.llm.addresses import outcome_digest
from qaworker.llm.counting import input_tokens, most_input_tokens
from qaworker.llm.estimates import Estimates
from qaworker.llm.prices import Price, cost_micros, most_micros
from qaworker.llm.request import output_cap
from qaworker.models import Chunk, GenerationConfig, Language, ReasoningEffort, Usage
from tests.unit.engine.fakes import chunk

PRICE = Price(input=Decimal("0.25"), cached_input=Decimal("0.025"), output=Decimal(2))
LANGUAGES: tuple[Language, ...] = ("en", "ja")


def terms(
    model: str = "gpt-4o-mini",
    *,
    batch_chunks: int = 1,
    effort: ReasoningEffort = "minimal",
    price: Price | None = PRICE,
    rates: Rates = Rates(),  # noqa: B008, a frozen value
    calls_in_flight: int = 512,
) -> Terms:
    config = GenerationConfig(batch_chunks=batch_chunks, reasoning_effort=effort)
    return Terms(
        model=model, config=config, price=price, rates=rates, calls_in_flight=calls_in_flight
    )


def addressed(chunks: Sequence[Chunk]) -> list[tuple[Chunk, str]]:
    return [(one, outcome_digest(one, GenerationConfig(), "m")) for one in chunks]


def mixed(number: int) -> list[Chunk]:
    """English and Japanese, in runs of different lengths."""
    return [chunk(n, LANGUAGES[n % 7 > 3]) for n in range(number)]


def planned(chunks: Sequence[Chunk], given: Terms) -> Plan:
    return make_plan(addressed(chunks), given)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("number", [0, 1, 15, 16, 17, 100])
def test_prompts_are_shared_as_the_engine_shares_them(size: int, number: int) -> None:
    chunks = mixed(number)
    per_task = CHUNKS_PER_TASK // size * size
    expected = []
    for start in range(0, number, per_task):
        task = dict(zip(map(str, range(per_task)), chunks[start:], strict=False))
        expected += [list(one.values()) for one in sharing.prompts(task, size, {}, {})]
    assert list(prompts(chunks, size)) == expected


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("batch_chunks", [1, 3])
def test_the_sums_are_those_of_the_calls(language: Language, batch_chunks: int) -> None:
    chunks = [chunk(n, language) for n in range(9)]
    given = terms(batch_chunks=batch_chunks)
    plan = planned(chunks, given)
    count = tokens.counter(given.model)
    calls = [chunks[n : n + batch_chunks] for n in range(0, 9, batch_chunks)]
    read = [input_tokens(call, count) for call in calls]
    caps = [output_cap(call, given.config, given.model) for call in calls]
    assert (plan.chunks, plan.known, plan.calls) == (9, 0, len(calls))
    assert plan.input_tokens == sum(read)
    assert plan.most_output_tokens == sum(caps)
    assert 0 < plan.output_tokens < plan.most_output_tokens
    usage = Usage(input=plan.input_tokens, output=plan.output_tokens)
    assert plan.cost_micros == cost_micros(usage, PRICE)
    most = [
        most_micros(most_input_tokens(tokens), cap, PRICE)
        for tokens, cap in zip(read, caps, strict=True)
    ]
    first = [reserved_at_first(call, given) for call in calls]
    assert plan.most_call_micros == max(first)
    # All but the last cost what they can at most; the last one reserves, before it is made.
    assert plan.most_micros == sum(most) + max(a - b for a, b in zip(first, most, strict=True))


def reserved_at_first(call: Sequence[Chunk], given: Terms) -> int:
    """What a worker reserves for a call before it has an answer to learn from."""
    reckoned = Estimates().tokens(call, given.config, given.model)
    return most_micros(most_input_tokens(reckoned.input), reckoned.output_cap, PRICE)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-5-mini"])
def test_one_call_can_be_paid_for_with_what_it_takes_at_most(
    model: str, language: Language
) -> None:
    given = terms(model)
    plan = planned([chunk(1, language)], given)
    assert plan.most_micros == reserved_at_first([chunk(1, language)], given)


def test_a_repeated_text_is_asked_once() -> None:
    once, twice = planned(mixed(5), terms()), planned(mixed(5) * 2, terms())
    assert (twice.chunks, twice.known) == (10, 5)
    assert (twice.calls, twice.cost_micros) == (once.calls, once.cost_micros)


def test_what_is_known_anywhere_costs_nothing() -> None:
    chunks = addressed(mixed(2500))
    asked: list[int] = []
    first, second = {chunks[0][1], "0" * 32}, {digest for _, digest in chunks[1000:]}

    def known(digests: Sequence[str]) -> set[str]:
        asked.append(len(digests))
        return second.intersection(digests)

    plan = make_plan(chunks, terms(), known=[first.intersection, known])
    assert (plan.chunks, plan.known, plan.calls) == (2500, 1501, 999)
    assert asked == [1000, 1000, 500]


def test_without_a_price_there_are_no_dollars() -> None:
    plan = planned(mixed(3), terms(price=None))
    assert (plan.cost_micros, plan.most_micros, plan.most_call_micros) == (None, None, None)
    assert plan.input_tokens > 0


def test_reasoning_is_output() -> None:
    def output(model: str, effort: ReasoningEffort) -> tuple[int, int]:
        plan = planned(mixed(1), terms(model, effort=effort))
        return plan.output_tokens, plan.most_output_tokens

    plain, plain_most = output("gpt-4o-mini", "high")
    assert output("gpt-5-mini", "minimal") == (plain, plain_most + 128)
    assert output("gpt-5-mini", "high") == (plain + 4096, plain_most + 16384)
    # The o series does not know the least effort.
    assert output("o4-mini", "minimal") == (plain + 256, plain_most + 1024)


@pytest.mark.parametrize(
    ("rates", "calls_in_flight", "bound_by", "seconds"),
    [
        (Rates(), 10, "calls in flight", 10 * LATENCY_S),
        (Rates(), 1000, "calls in flight", LATENCY_S),
        (Rates(rpm=60), 1000, "requests", 100 + LATENCY_S),
        (Rates(rpm=60, tpm=1_000_000), 1000, "requests", 100 + LATENCY_S),
        (Rates(rpm=600), 1, "calls in flight", 100 * LATENCY_S),
    ],
)
def test_the_tightest_limit_makes_the_time(
    rates: Rates, calls_in_flight: int, bound_by: str, seconds: float
) -> None:
    plan = planned(mixed(100), terms(rates=rates, calls_in_flight=calls_in_flight))
    assert plan.bound_by == bound_by
    assert plan.seconds == pytest.approx(seconds)


def test_tokens_of_both_directions_fill_a_limit() -> None:
    free = planned(mixed(100), terms())
    tpm = (free.input_tokens + free.output_tokens) / 10
    plan = planned(mixed(100), terms(rates=Rates(rpm=3500, tpm=tpm)))
    assert plan.bound_by == "tokens"
    assert plan.seconds == pytest.approx(600 + LATENCY_S)


def test_nothing_takes_no_time() -> None:
    plan = planned([], terms(rates=Rates(rpm=1, tpm=1)))
    assert (plan.calls, plan.seconds, plan.bound_by) == (0, 0.0, "nothing")
    assert (plan.cost_micros, plan.most_micros, plan.most_call_micros) == (0, 0, 0)
