"""What Prometheus is shown: each metric with its name, its unit and its labels, all of them bounded.

Labels take values of closed lists, and ``other``; the names of the first models that were answered for,
and ``other``; and the names of workers, the newest that beat.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from qaworker.errors import (
    AnswerInvalid,
    AnswerTruncated,
    ChunkTooLarge,
    HaltError,
    InternalFault,
    ModelRefused,
    ProviderDown,
    ProviderThrottled,
    ProviderUnavailable,
    RequestRefused,
)
from qaworker.exporter.looking import Picture
from qaworker.store import counters
from qaworker.store.counters import MOST_MODELS, OTHER, Counted, Histogram
from qaworker.store.heartbeats import Beat, Seen
from qaworker.store.holds import BUDGET, BUDGET_UNKNOWN, OPERATOR, UNPRICED, Hold

MOST_WORKERS: Final = 500
"""That are shown: the fleets this is made for have fifty."""
OUTCOMES: Final = ("ok", "rejected", "dead")
OPERATOR_MODEL: Final = "operator_model"
"""Why one model is held that an operator holds: the others go on."""
OPERATOR_RUN: Final = "operator_run"
"""Likewise one run."""

_OPERATORS: Final = {"account": OPERATOR, "model": OPERATOR_MODEL, "run": OPERATOR_RUN}

Samples = Iterable[tuple[tuple[str, ...], float]]

HALTS: Final = (HaltError, ModelRefused, ProviderDown)
REASONS: Final = frozenset(
    kind.reason
    for kind in (
        AnswerInvalid,
        AnswerTruncated,
        ChunkTooLarge,
        *HALTS,
        InternalFault,
        ProviderThrottled,
        ProviderUnavailable,
        RequestRefused,
    )
)
"""Why a call fails."""
HOLD_REASONS: Final = frozenset(
    {
        *(kind.reason for kind in HALTS),
        BUDGET,
        BUDGET_UNKNOWN,
        OPERATOR,
        OPERATOR_MODEL,
        OPERATOR_RUN,
        UNPRICED,
    }
)
"""Why there is a hold; an operator's are told by what they hold, not by what he wrote."""


def families(picture: Picture) -> Iterator[Metric]:
    """Every metric that depends on Redis."""
    yield from _queues(picture)
    yield from _workers(picture)
    yield from _limits(picture)
    yield from _counts(picture.counted)


def gauge(
    name: str, text: str, labels: tuple[str, ...], samples: Samples, unit: str = ""
) -> Metric:
    """A gauge with its samples."""
    family = GaugeMetricFamily(f"qaworker_{name}", text, labels=labels, unit=unit)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def counter(
    name: str, text: str, labels: tuple[str, ...], samples: Samples, unit: str = ""
) -> Metric:
    """A counter with its samples; its name gets ``_total``."""
    family = CounterMetricFamily(f"qaworker_{name}", text, labels=labels, unit=unit)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _queues(picture: Picture) -> Iterator[Metric]:
    queues = picture.queues
    yield gauge(
        "queue_messages",
        "Messages in a queue: ready for a worker, or unacknowledged, which a worker holds or held"
        " when it was killed.",
        ("queue", "state"),
        [((one.name, "ready"), one.ready) for one in queues]
        + [((one.name, "unacknowledged"), one.unacknowledged) for one in queues],
    )
    yield gauge(
        "queue_oldest_message_age_seconds",
        "How long the ready message that waits longest has waited, of those that are next and those"
        " that came last; 0 while none waits.",
        ("queue",),
        [((one.name,), one.oldest_age_s or 0.0) for one in queues],
        unit="seconds",
    )
    yield gauge(
        "dead_letters",
        "Dead letters there are: chunks without hope, and messages that cannot be read.",
        (),
        [((), picture.dead_letters)],
    )
    held = Counter(dict.fromkeys(HOLD_REASONS, 0))
    is_used = _is_used(picture)
    held.update(_hold_reason(one) for one in picture.holds if is_used(one.account))
    yield gauge(
        "held",
        "Holds there are, by reason: operator is an account's, operator_model and operator_run are one"
        " model's and one run's. Not those of accounts that no living worker uses, while any lives.",
        ("reason",),
        _labelled(held),
    )


def _is_used(picture: Picture) -> Callable[[str], bool]:
    """Tells whether living workers use an account, while any lives: what is left of a former key is not.

    An operator's hold of it would stand for ever, and its limits for an hour. No account is everybody's.
    """
    accounts = {one.beat.account for one in picture.workers if one.is_living}
    return lambda account: not accounts or not account or account in accounts


def _hold_reason(hold: Hold) -> str:
    if hold.is_operators:
        return _OPERATORS.get(hold.kind, OTHER)
    return hold.reason if hold.reason in HOLD_REASONS else OTHER


def _workers(picture: Picture) -> Iterator[Metric]:
    living = [one.beat for one in picture.workers if one.is_living]
    yield gauge(
        "workers_expected",
        "Worker processes that are to run, on all hosts.",
        (),
        [((), sum(picture.expected_workers.values()))],
    )
    yield gauge(
        "workers_missing",
        "Worker processes that are to run and are not alive, added up over hosts: more than enough on"
        " one makes up for none on another.",
        (),
        [((), _missing(picture.expected_workers, living))],
    )
    yield gauge(
        "tasks_active",
        "Tasks that living workers hold.",
        (),
        [((), sum(beat.tasks for beat in living))],
    )
    yield gauge(
        "calls_in_flight",
        "Calls of living workers that wait for the provider's answer; prefork workers do not know"
        " theirs, and where all are such it is absent.",
        (),
        [((), sum(beat.calls_in_flight for beat in living))]
        if not living or any(beat.tells_calls for beat in living)
        else [],
    )
    shown = sorted(picture.workers, key=lambda one: one.age_s)[:MOST_WORKERS]

    def of_each(value: Callable[[Seen], float]) -> Samples:
        return [((one.beat.name,), value(one)) for one in shown]

    yield gauge(
        "worker_last_heartbeat_timestamp_seconds",
        "When a worker last beat, since the epoch by the clock of Redis; workers of the last day that"
        " did not end in order.",
        ("worker",),
        of_each(lambda one: one.at_s),
        unit="seconds",
    )
    yield gauge(
        "worker_memory_bytes",
        "Resident memory of a worker's process and its children.",
        ("worker",),
        of_each(lambda one: one.beat.memory_mib * 2**20),
        unit="bytes",
    )
    yield gauge(
        "worker_draining",
        "1 while a living worker takes nothing new, as it was told to end or to be quiet.",
        ("worker",),
        of_each(lambda one: one.is_living and one.beat.state != "consuming"),
    )


def _missing(expected: Mapping[str, int], living: Iterable[Beat]) -> int:
    there = Counter(beat.host for beat in living)
    return sum(max(0, workers - there[host]) for host, workers in expected.items())


def _limits(picture: Picture) -> Iterator[Metric]:
    named, is_used = _named(picture), _is_used(picture)
    limits: defaultdict[tuple[str, ...], float] = defaultdict(float)
    available: defaultdict[tuple[str, ...], float] = defaultdict(float)
    for state in filter(lambda one: is_used(one.account), picture.limiters):
        model = state.model if state.model in named else OTHER
        for name, kind in (("requests", state.requests), ("tokens", state.tokens)):
            if kind.per_minute:
                limits[model, name] += kind.per_minute
                available[model, name] += kind.available
    yield gauge(
        "limit",
        "Requests or tokens a minute that all workers together may take, over all accounts that living"
        " ones use; absent where there is no limit, and while nobody has asked within the hour.",
        ("model", "kind"),
        limits.items(),
    )
    yield gauge(
        "limit_available",
        "Requests or tokens that could be granted at once: at most the limit's share of a tenth of a"
        " second, and negative while what was used too much is made up for.",
        ("model", "kind"),
        available.items(),
    )


def _named(picture: Picture) -> set[str]:
    """Models that are shown by their name; one that was asked for and not counted yet may be."""
    counted = picture.counted.models
    new = sorted({state.model for state in picture.limiters} - counted)
    return {*counted, *new[: MOST_MODELS - len(counted)]}


def _counts(counted: Counted) -> Iterator[Metric]:
    totals = counted.totals
    yield counter(
        "chunks",
        "Chunks whose outcome workers stored: ok, rejected (no acceptable pair) or dead.",
        ("outcome",),
        _closed(totals[counters.CHUNKS], OUTCOMES),
    )
    yield counter(
        "failures",
        "Calls that gave no usable answer, by reason.",
        ("reason",),
        _closed(totals[counters.FAILURES], REASONS),
    )
    yield counter(
        "retries",
        "Calls that a worker made again, by the reason that the one before failed for; not the first"
        " ones after chunks were handed back or requeued, nor of those that failed in one prompt and"
        " are asked alone.",
        ("reason",),
        _closed(totals[counters.RETRIES], REASONS),
    )
    yield counter(
        "redeliveries",
        "Messages that came to a worker a second time: handed back, or held by one that died.",
        (),
        [((), totals[counters.REDELIVERIES].get((), 0))],
    )
    yield _histogram(
        counted,
        counters.CALL,
        "call_duration_seconds",
        "How long the provider took to answer a call, or the call to fail.",
    )
    yield _histogram(
        counted,
        counters.LIMITER_WAIT,
        "limiter_wait_seconds",
        "How long a call waited for the rate limiter and for a free slot.",
    )
    yield _histogram(
        counted,
        counters.TASK_WAIT,
        "task_wait_seconds",
        "How long a message waited from when it was sent to when a worker first began with it, by"
        " the clocks of their hosts.",
    )
    yield counter(
        "openai_requests",
        "Calls to the provider that ended, by the reason that they failed for, or ok.",
        ("model", "status"),
        _by_model(totals[counters.REQUESTS], {*REASONS, "ok"}),
    )
    yield counter(
        "openai_tokens",
        "Tokens the provider charged for; cached_input is part of input, reasoning of output.",
        ("model", "kind"),
        _by_model(totals[counters.TOKENS], {"input", "cached_input", "output", "reasoning"}),
    )
    yield counter(
        "cost_dollars",
        "Dollars that those tokens cost, each call rounded up to a millionth, as budgets are charged;"
        " none for a model without a known price.",
        ("model",),
        [
            (labels, micros / counters.MICRO)
            for labels, micros in totals[counters.MICRO_DOLLARS].items()
        ],
        unit="dollars",
    )


def _labelled(values: Mapping[str, int]) -> Samples:
    return [((label,), value) for label, value in sorted(values.items())]


def _closed(values: Mapping[tuple[str, ...], int], known: Iterable[str]) -> Samples:
    """All known labels, those that were never counted too: an increase from nothing shows no rate."""
    counts = Counter(dict.fromkeys(known, 0))
    for (label,), value in values.items():
        counts[label if label in counts else OTHER] += value
    return _labelled(counts)


def _by_model(values: Mapping[tuple[str, ...], int], known: set[str]) -> Samples:
    counts: Counter[tuple[str, ...]] = Counter()
    for (label, model), value in values.items():
        counts[model, label if label in known else OTHER] += value
    return sorted(counts.items())


def _histogram(counted: Counted, histogram: Histogram, name: str, text: str) -> Metric:
    family = HistogramMetricFamily(
        f"qaworker_{name}", text, labels=(histogram.label,), unit="seconds"
    )
    bounds = [*(str(float(bound)) for bound in histogram.bounds_s), counters.INFINITE]
    for label, durations in sorted(counted.histograms[histogram].items()):
        buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
        family.add_metric((label,), buckets=buckets, sum_value=durations.sum_s)
    return family
