from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from qaworker import keys
from qaworker.errors import CallError, MessageInvalid, StoreUnavailable, WorkerDied
from qaworker.exporter.collector import Collector
from qaworker.exporter.families import HALTS, HOLD_REASONS, MOST_WORKERS, REASONS, families
from qaworker.exporter.looking import Picture
from qaworker.limits.states import Kind, LimiterState
from qaworker.store import counters
from qaworker.store.counters import Counted, Durations, Total
from qaworker.store.heartbeats import Beat, Seen
from qaworker.store.holds import Hold
from qaworker.store.overview import Queue

NOTHING = Picture(
    queues=[Queue(name, 0, 0, None) for name in keys.QUEUES],
    dead_letters=0,
    workers=[],
    expected_workers={},
    holds=[],
    limiters=[],
    counted=Counted(
        {total: {} for total in counters.TOTALS},
        {histogram: {} for histogram in counters.HISTOGRAMS},
        frozenset(),
    ),
)
# Name -> type, as alerts and dashboards use them.
NAMES = {
    "qaworker_queue_messages": "gauge",
    "qaworker_queue_oldest_message_age_seconds": "gauge",
    "qaworker_dead_letters": "gauge",
    "qaworker_tasks_active": "gauge",
    "qaworker_calls_in_flight": "gauge",
    "qaworker_chunks": "counter",
    "qaworker_failures": "counter",
    "qaworker_retries": "counter",
    "qaworker_redeliveries": "counter",
    "qaworker_call_duration_seconds": "histogram",
    "qaworker_limiter_wait_seconds": "histogram",
    "qaworker_task_wait_seconds": "histogram",
    "qaworker_limit": "gauge",
    "qaworker_limit_available": "gauge",
    "qaworker_worker_last_heartbeat_timestamp_seconds": "gauge",
    "qaworker_worker_memory_bytes": "gauge",
    "qaworker_worker_draining": "gauge",
    "qaworker_workers_expected": "gauge",
    "qaworker_workers_missing": "gauge",
    "qaworker_held": "gauge",
    "qaworker_openai_requests": "counter",
    "qaworker_openai_tokens": "counter",
    "qaworker_cost_dollars": "counter",
}
OF_THE_EXPORTER = {
    "qaworker_broker_up": "gauge",
    "qaworker_exporter_collect_duration_seconds": "gauge",
    "qaworker_exporter_collect_errors": "counter",
    "qaworker_build": "info",
}


def away() -> Picture:
    raise StoreUnavailable


def series(picture: Picture) -> dict[str, float]:
    """Every sample by its name with labels."""
    return {
        sample.name
        + "".join(f",{name}={value}" for name, value in sorted(sample.labels.items())): (
            sample.value
        )
        for family in families(picture)
        for sample in family.samples
    }


def beating(name: str, age_s: float = 1.0, **more: object) -> Seen:
    beat = Beat.model_validate({"name": name, "pid": 1, **more})
    return Seen(beat, age_s, 1_000.0 - age_s)


def leaves(kind: type[CallError]) -> Iterator[type[CallError]]:
    below = kind.__subclasses__()
    if not below or kind in HALTS:
        yield kind
    for each in below:
        yield from leaves(each)


def test_the_names_are_those_that_alerts_and_dashboards_use() -> None:
    assert {family.name: family.type for family in families(NOTHING)} == NAMES


@pytest.mark.parametrize("family", [*families(NOTHING), *Collector(away).collect()])
def test_each_says_what_it_is(family: Metric) -> None:
    assert family.documentation.endswith(".")
    base_unit = family.name.rpartition("_")[2]
    assert family.unit == (base_unit if base_unit in {"seconds", "bytes", "dollars"} else "")


def test_without_redis_there_is_only_what_is_known_of_the_exporter() -> None:
    collector = Collector(away)
    found = list(collector.collect())
    assert {family.name: family.type for family in found} == OF_THE_EXPORTER
    values = {sample.name: sample.value for family in found for sample in family.samples}
    assert values["qaworker_broker_up"] == 0
    assert values["qaworker_exporter_collect_errors_total"] == 1


def test_all_is_there_in_the_text() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(lambda: NOTHING))
    text = generate_latest(registry).decode()
    assert "\nqaworker_broker_up 1.0\n" in text
    for name in NAMES:
        assert f"# HELP {name}" in text


def test_queues_are_always_there() -> None:
    queues = [Queue("qa_generation", 5, 2, 1.5), *NOTHING.queues[2:], NOTHING.queues[0]]
    found = series(replace(NOTHING, queues=queues))
    assert found["qaworker_queue_messages,queue=qa_generation,state=ready"] == 5
    assert found["qaworker_queue_messages,queue=qa_generation,state=unacknowledged"] == 2
    assert found["qaworker_queue_oldest_message_age_seconds,queue=qa_generation"] == 1.5
    assert found["qaworker_queue_oldest_message_age_seconds,queue=low_priority"] == 0
    assert len([name for name in found if name.startswith("qaworker_queue_messages")]) == 8


def test_only_living_workers_are_at_work() -> None:
    living = beating("qa_worker-1@a", tasks=3, calls_in_flight=4, memory_mib=2.0)
    silent = beating("qa_worker-2@a", 60, tasks=5, calls_in_flight=6, state="draining")
    found = series(replace(NOTHING, workers=[living, silent], expected_workers={"a": 2}))
    assert found["qaworker_tasks_active"] == 3
    assert found["qaworker_calls_in_flight"] == 4
    assert found["qaworker_workers_expected"] == 2
    last = "qaworker_worker_last_heartbeat_timestamp_seconds,worker="
    assert found[f"{last}qa_worker-1@a"] == 999
    assert found[f"{last}qa_worker-2@a"] == 940
    assert found["qaworker_worker_memory_bytes,worker=qa_worker-1@a"] == 2 * 2**20
    assert found["qaworker_worker_draining,worker=qa_worker-1@a"] == 0
    assert found["qaworker_worker_draining,worker=qa_worker-2@a"] == 0


@pytest.mark.parametrize(
    ("state", "takes_nothing"), [("consuming", 0), ("quiet", 1), ("draining", 1)]
)
def test_it_is_seen_who_takes_nothing_new(state: str, takes_nothing: int) -> None:
    found = series(replace(NOTHING, workers=[beating("w", state=state)]))
    assert found["qaworker_worker_draining,worker=w"] == takes_nothing


def test_more_workers_than_expected_on_one_host_hide_no_loss_on_another() -> None:
    workers = [*(beating(f"qa_worker-{n}@a") for n in (1, 2, 3)), beating("qa_worker-1@b", 60)]
    expected = {"a": 1, "b": 2, "c": 1, "d": 0}
    found = series(replace(NOTHING, workers=workers, expected_workers=expected))
    assert found["qaworker_workers_expected"] == 4
    assert found["qaworker_workers_missing"] == 3


@pytest.mark.parametrize(
    ("pools", "calls"), [([], 0), (["prefork"], None), (["prefork", "threads"], 5)]
)
def test_calls_of_prefork_workers_are_not_known(pools: list[str], calls: float | None) -> None:
    workers = [
        beating(f"w-{pool}", pool=pool, calls_in_flight=5 * (pool == "threads")) for pool in pools
    ]
    found = series(replace(NOTHING, workers=workers))
    assert found.get("qaworker_calls_in_flight") == calls


def test_the_newest_workers_are_shown() -> None:
    workers = [beating(f"w{age_s}", age_s) for age_s in range(MOST_WORKERS + 10)]
    found = series(replace(NOTHING, workers=workers))
    shown = [name for name in found if name.startswith("qaworker_worker_memory_bytes")]
    assert len(shown) == MOST_WORKERS
    assert "qaworker_worker_memory_bytes,worker=w0" in shown


def test_what_an_operator_holds_is_told_by_how_much_it_is() -> None:
    free = Hold(scope="account@1", reason="lunch", since=0, probe_at=0)
    strange = free.model_copy(update={"scope": "run:1", "by": "host:1"})
    halted = strange.model_copy(update={"scope": "run:2", "reason": "halted"})
    parts = [free.model_copy(update={"scope": scope}) for scope in ("run:3", "model:m@1", "run:4")]
    found = series(replace(NOTHING, holds=[free, free, *parts, strange, halted]))
    assert found["qaworker_held,reason=operator"] == 2
    assert found["qaworker_held,reason=operator_model"] == 1
    assert found["qaworker_held,reason=operator_run"] == 2
    assert found["qaworker_held,reason=other"] == 1
    assert found["qaworker_held,reason=halted"] == 1
    assert found["qaworker_held,reason=budget"] == 0
    assert {name.rpartition("=")[2] for name in found if "qaworker_held" in name} == {
        *HOLD_REASONS,
        "other",
    }


@pytest.mark.parametrize(("age_s", "held"), [(1.0, 1), (60.0, 2)])
def test_a_hold_of_an_account_that_nobody_uses_any_more_is_none(age_s: float, held: int) -> None:
    """Unless nobody uses any: then it may be why."""
    former = Hold(scope="account@former", reason="key leaked", since=0, probe_at=0)
    current = former.model_copy(update={"scope": "account@current"})
    of_a_model = former.model_copy(update={"scope": "model:m@former"})
    of_a_run = former.model_copy(update={"scope": "run:1"})
    workers = [beating("w", age_s, account="current")]
    picture = replace(NOTHING, workers=workers, holds=[former, current, of_a_model, of_a_run])
    found = series(picture)
    assert found["qaworker_held,reason=operator"] == held
    assert found["qaworker_held,reason=operator_model"] == held - 1
    assert found["qaworker_held,reason=operator_run"] == 1


def limiter(model: str, rpm: float, tpm: float, account: str = "a") -> LimiterState:
    requests, tokens = (Kind(limit, "table", limit / 600) for limit in (rpm, tpm))
    return LimiterState(account, model, requests, tokens, 1.0, 0, None, None)


def test_limits_add_up_over_accounts_and_no_limit_is_none() -> None:
    limiters = [limiter("m", 600, 0), limiter("m", 1200, 0, "b")]
    found = series(replace(NOTHING, limiters=limiters))
    assert found["qaworker_limit,kind=requests,model=m"] == 1800
    assert found["qaworker_limit_available,kind=requests,model=m"] == 3
    assert not [name for name in found if "kind=tokens,model=m" in name]


def test_the_limits_of_a_former_key_do_not_count() -> None:
    limiters = [limiter("m", 600, 0), limiter("m", 1200, 0, "former")]
    workers = [beating("w", account="a")]
    found = series(replace(NOTHING, limiters=limiters, workers=workers))
    assert found["qaworker_limit,kind=requests,model=m"] == 600


def test_limits_of_models_beyond_the_first_are_one() -> None:
    counted = replace(NOTHING.counted, models=frozenset(f"m{n}" for n in range(19)))
    limiters = [limiter(f"x{n}", 600, 1) for n in range(3)] + [limiter("m1", 60, 1)]
    found = series(replace(NOTHING, counted=counted, limiters=limiters))
    assert found["qaworker_limit,kind=requests,model=m1"] == 60
    assert found["qaworker_limit,kind=requests,model=x0"] == 600
    assert found["qaworker_limit,kind=requests,model=other"] == 1200


def test_reasons_are_those_of_our_errors() -> None:
    not_of_calls = {MessageInvalid.reason, StoreUnavailable.reason, WorkerDied.reason}
    assert {kind.reason for kind in leaves(CallError)} - not_of_calls == REASONS


def test_counts_are_there_before_the_first_and_unknown_labels_are_other() -> None:
    totals: dict[Total, dict[tuple[str, ...], int]] = {
        **NOTHING.counted.totals,
        counters.CHUNKS: {("ok",): 7, ("new",): 1},
        counters.REQUESTS: {("throttled", "m"): 2, ("new", "m"): 3, ("newer", "m"): 4},
        counters.TOKENS: {("input", "m"): 5},
        counters.MICRO_DOLLARS: {("m",): 1_500_000},
    }
    found = series(replace(NOTHING, counted=replace(NOTHING.counted, totals=totals)))
    assert found["qaworker_chunks_total,outcome=ok"] == 7
    assert found["qaworker_chunks_total,outcome=dead"] == 0
    assert found["qaworker_chunks_total,outcome=other"] == 1
    assert found["qaworker_failures_total,reason=throttled"] == 0
    assert found["qaworker_redeliveries_total"] == 0
    assert found["qaworker_openai_requests_total,model=m,status=throttled"] == 2
    assert found["qaworker_openai_requests_total,model=m,status=other"] == 7
    assert found["qaworker_openai_tokens_total,kind=input,model=m"] == 5
    assert found["qaworker_cost_dollars_total,model=m"] == 1.5


def test_buckets_hold_what_took_no_longer() -> None:
    bounds = len(counters.CALL.bounds_s)
    durations = Durations((1, *[0] * (bounds - 1), 2), 250.5)
    histograms = {**NOTHING.counted.histograms, counters.CALL: {"m": durations}}
    found = series(replace(NOTHING, counted=replace(NOTHING.counted, histograms=histograms)))
    bucket = "qaworker_call_duration_seconds_bucket,le={},model=m"
    assert found[bucket.format("0.25")] == 1
    assert found[bucket.format("100.0")] == 1
    assert found[bucket.format("+Inf")] == 3
    assert found["qaworker_call_duration_seconds_count,model=m"] == 3
    assert found["qaworker_call_duration_seconds_sum,model=m"] == 250.5
