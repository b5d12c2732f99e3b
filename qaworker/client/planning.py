"""What a run will take, reckoned before anything is sent: calls, tokens, dollars and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Final, Literal

from qaworker.client.driver import CHUNKS_PER_TASK
from qaworker.client.recording import NOTICES_AT_ONCE
from qaworker.corpus import tokens
from qaworker.limits.rates import Rates
from qaworker.llm.counting import Counter, input_tokens, most_input_tokens
from qaworker.llm.estimates import Estimates
from qaworker.llm.prices import Price, cost_micros, most_micros
from qaworker.llm.reasoning import REASONING_TOKENS, admitted_effort, is_reasoning
from qaworker.llm.request import output_cap
from qaworker.models import Chunk, GenerationConfig, Language, ReasoningEffort, Usage
from qaworker.store.outcomes import OutcomeReader, settles

# What the room for a pair in qaworker.llm.request was measured by, without its reserve.
_TOKENS_PER_PAIR: Final[dict[Language, int]] = {"en": 110, "ja": 170}
_TOKENS_AROUND: Final = 8  # {"pairs":[ … ]}
# Assumed: models use about a quarter of the room for reasoning, and next to none of the least.
_REASONING_SHARE: Final = 0.25
_HARDLY_ANY: Final[tuple[ReasoningEffort, ...]] = ("none", "minimal")

LATENCY_S: Final = 6.0
"""Assumed of a call: three pairs from a small model, at about 50 tokens a second."""

Bound = Literal["nothing", "requests", "tokens", "calls in flight"]
Known = Callable[[Sequence[str]], AbstractSet[str]]
"""Which of some digests have an outcome already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What calls are made with, and what limits them."""

    model: str
    config: GenerationConfig
    price: Price | None
    """None where nobody knows it: then the plan has no dollars."""
    rates: Rates
    calls_in_flight: int
    """Of all processes that will work on the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will take if no call fails."""

    chunks: int
    known: int
    """Chunks that need no call: they have an outcome, or the text of another chunk."""
    calls: int
    input_tokens: int
    """Counted over the prompts as they will be sent."""
    output_tokens: int
    """Estimated: as many pairs as are wanted, of usual length."""
    most_output_tokens: int
    """All answers as long as their caps."""
    cost_micros: int | None
    """Estimated, in micro-dollars at the standard price, nothing read from the cache."""
    most_micros: int | None
    """What a budget must cover, so that no call is refused; calls that are repeated come on top."""
    most_call_micros: int | None
    """What the dearest call reserves of it where workers have learnt nothing yet."""
    seconds: float
    """Estimated, at the known limits and ``LATENCY_S`` a call."""
    bound_by: Bound
    """What makes it take that long."""
    terms: Terms


@dataclass(slots=True)
class _Sums:
    chunks: int = 0
    asked: int = 0
    calls: int = 0
    input: int = 0
    output: int = 0
    most_output: int = 0
    most_micros: int = 0
    most_call_micros: int = 0
    more_reserved_micros: int = 0
    """By a call than it can cost."""


def answered_in(reader: OutcomeReader) -> Known:
    """What some run was answered; raises StoreUnavailable when it is asked and Redis is away."""

    def known(digests: Sequence[str]) -> set[str]:
        return {digest for digest, o in reader.fetch(digests).items() if settles(o, "")}

    return known


def make_plan(
    chunks: Iterable[tuple[Chunk, str]],
    terms: Terms,
    *,
    known: Sequence[Known] = (),
    count: Counter | None = None,
) -> Plan:
    """Reckon what ``chunks`` will take.

    Args:
        chunks: with their digests, in document order; read once. Memory grows by about 100 bytes
            for each.
        terms: how they are asked.
        known: where to look digests up, some hundred at a time.
        count: the tokens of a text; by default in the model's vocabulary.
    """
    sums = _Sums()
    count = count or tokens.counter(terms.model)
    unlearnt = Estimates()
    for prompt in prompts(_unknown(chunks, known, sums), terms.config.batch_chunks):
        read = input_tokens(prompt, count)
        cap = output_cap(prompt, terms.config, terms.model)
        sums.calls += 1
        sums.input += read
        sums.output += min(cap, _usual_output(prompt, terms))
        sums.most_output += cap
        if terms.price is not None:
            most = most_micros(most_input_tokens(read), cap, terms.price)
            reckoned = unlearnt.tokens(prompt, terms.config, terms.model)
            reserved = most_micros(most_input_tokens(reckoned.input), cap, terms.price)
            sums.most_micros += most
            sums.most_call_micros = max(sums.most_call_micros, reserved)
            sums.more_reserved_micros = max(sums.more_reserved_micros, reserved - most)
    seconds, bound_by = _duration(sums, terms)
    usage, price = Usage(input=sums.input, output=sums.output), terms.price
    return Plan(
        chunks=sums.chunks,
        known=sums.chunks - sums.asked,
        calls=sums.calls,
        input_tokens=sums.input,
        output_tokens=sums.output,
        most_output_tokens=sums.most_output,
        cost_micros=None if price is None else cost_micros(usage, price),
        # A call is refused by what it reserves, when those before it have cost what they did.
        most_micros=None if price is None else sums.most_micros + sums.more_reserved_micros,
        most_call_micros=None if price is None else sums.most_call_micros,
        seconds=seconds,
        bound_by=bound_by,
        terms=terms,
    )


def prompts(chunks: Iterable[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Chunks that will share a prompt, as the driver cuts tasks and the engine their prompts."""
    remaining = iter(chunks)
    while task := list(islice(remaining, CHUNKS_PER_TASK // size * size)):
        for _, run in groupby(task, key=lambda chunk: chunk.language):
            while prompt := list(islice(run, size)):
                yield prompt


def _unknown(
    chunks: Iterable[tuple[Chunk, str]], known: Sequence[Known], sums: _Sums
) -> Iterator[Chunk]:
    """The chunks that will be asked: one for each digest that has no outcome."""
    remaining = iter(chunks)
    seen: set[bytes] = set()
    while page := list(islice(remaining, NOTICES_AT_ONCE)):
        sums.chunks += len(page)
        digests = [digest for _, digest in page]
        answered = {digest for look_up in known for digest in look_up(digests)}
        for chunk, digest in page:
            key = bytes.fromhex(digest)
            if key not in seen and digest not in answered:
                sums.asked += 1
                yield chunk
            seen.add(key)


def _usual_output(prompt: Sequence[Chunk], terms: Terms) -> int:
    pairs = sum(chunk.pairs_wanted * _TOKENS_PER_PAIR[chunk.language] for chunk in prompt)
    reasoning = 0.0
    if is_reasoning(terms.model):
        effort = admitted_effort(terms.model, terms.config.reasoning_effort)
        if effort not in _HARDLY_ANY:
            reasoning = _REASONING_SHARE * REASONING_TOKENS[effort]
    return _TOKENS_AROUND + pairs + int(reasoning)


def _duration(sums: _Sums, terms: Terms) -> tuple[float, Bound]:
    """Seconds, and what they are bound by."""
    if not sums.calls:
        return 0.0, "nothing"
    rates = terms.rates
    spans: list[tuple[float, Bound]] = [
        (math.ceil(sums.calls / terms.calls_in_flight) * LATENCY_S, "calls in flight"),
        (LATENCY_S + 60 * sums.calls / rates.rpm if rates.rpm else 0.0, "requests"),
        (LATENCY_S + 60 * (sums.input + sums.output) / rates.tpm if rates.tpm else 0.0, "tokens"),
    ]
    return max(spans)
