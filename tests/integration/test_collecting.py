"""The Python functions: notes and outcomes written by the test, or by a real worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from celery.result import AsyncResult
from redis import Redis

import qaworker
from qaworker import keys
from qaworker.client import collecting
from qaworker.client.collecting import (
    SubmittedTask,
    collect_results,
    submit_parallel_qa_generation,
)
from qaworker.errors import MessageInvalid, StoreUnavailable
from qaworker.models import Language, Outcome, OutcomeKind, QAPair
from qaworker.store.outcomes import encode
from qaworker.store.task_notes import TaskNote, TaskNotes
from qaworker.tasks import generate_qa_for_batch_async, generate_qa_for_chunk_async
from tests.conftest import StartWorker
from tests.support.simulators import SimulatorProcess

pytestmark = pytest.mark.usefixtures("client_env")

MODEL = "gpt-5-mini"
WAIT_S = 60.0
TEXTS: dict[Language, str] = {
    "en": "The ropeworks closed in 1931. Its long shed became a market hall two years later.",
    "ja": "製綱所は一九三一年に閉鎖された。長い作業場は二年後に市場となった。",
}


def chunks(count: int, language: Language = "en") -> list[dict[str, Any]]:
    return [
        {"chunk_id": f"{language}-{n}", "text": f"{TEXTS[language]} ({n})", "doc_id": f"doc-{n}"}
        for n in range(count)
    ]


@pytest.fixture
def answer(redis_client: Redis) -> Callable[..., None]:
    """Writes outcomes as a worker does."""

    def write(task: SubmittedTask, kind: OutcomeKind = "ok", run_id: str | None = None) -> None:
        for chunk, digest in zip(task.batch.chunks, task.batch.digests, strict=True):
            pair = QAPair(
                question="?", answer="!", question_type="fact", difficulty="easy", evidence="…"
            )
            outcome = Outcome(
                digest=digest,
                kind=kind,
                pairs=(pair.model_copy(update={"answer": chunk.text}),) if kind == "ok" else (),
                reason="" if kind == "ok" else "invalid",
                detail="not JSON" if kind == "dead" else "",
                run_id=task.batch.run_id if run_id is None else run_id,
            )
            redis_client.set(keys.outcome(digest), encode(outcome))

    return write


def test_the_functions_are_the_package_s() -> None:
    assert qaworker.submit_parallel_qa_generation is submit_parallel_qa_generation
    assert qaworker.collect_results is collect_results
    assert not hasattr(qaworker, "submit")


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 1]), (1, [1] * 7), (16, [7])])
def test_chunks_are_sent_in_batches(redis_client: Redis, batch_size: int, sizes: list[int]) -> None:
    tasks = submit_parallel_qa_generation(chunks(7), None, MODEL, batch_size)
    assert [len(task.batch.chunks) for task in tasks] == sizes
    assert redis_client.llen(keys.queue("qa_generation")) == len(sizes)
    assert len({task.id for task in tasks}) == len(sizes)


def test_a_priority_selects_the_queue(redis_client: Redis) -> None:
    submit_parallel_qa_generation(chunks(1), {}, MODEL, priority="high")
    assert redis_client.llen(keys.queue("high_priority")) == 1


@pytest.mark.parametrize(
    ("given", "config", "message"),
    [
        ([{"chunk_id": "c"}], None, "chunk c: text: Field required"),
        ([*chunks(3), {"chunk_id": "c", "text": ""}], None, "chunk c: text: "),
        (chunks(1), {"temprature": 0.1}, "config.temprature: Extra inputs"),
        (chunks(1), {"batch_chunks": 9}, "config.batch_chunks: "),
    ],
)
def test_when_anything_is_invalid_nothing_is_sent(
    redis_client: Redis, given: Any, config: Any, message: str
) -> None:
    with pytest.raises(MessageInvalid, match=message) as caught:
        submit_parallel_qa_generation(given, config, MODEL, 1)
    assert "\n" not in str(caught.value)
    assert redis_client.llen(keys.queue("qa_generation")) == 0


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        submit_parallel_qa_generation(chunks(1), None, MODEL, 0)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_pairs_come_in_the_order_of_tasks_and_chunks(
    answer: Callable[..., None], language: Language
) -> None:
    tasks = submit_parallel_qa_generation(chunks(5, language), None, MODEL, 2)
    for task in reversed(tasks):
        answer(task)
    collected = collect_results(tasks, timeout=WAIT_S)
    assert [pair["source_chunk_id"] for pair in collected] == [f"{language}-{n}" for n in range(5)]
    assert [pair["answer"] for pair in collected] == [c["text"] for c in chunks(5, language)]
    assert (collected.pending, collected.failed) == ([], {})
    assert collected[0].keys() >= {
        "question",
        "answer",
        "question_type",
        "source_chunk_id",
        "doc_id",
        "dataset_type",
        "chunk_idx",
    }


def test_what_comes_later_stays_collectable(answer: Callable[..., None]) -> None:
    tasks = submit_parallel_qa_generation(chunks(2), None, MODEL, 1)
    answer(tasks[1])
    first = collect_results(tasks, timeout=0)
    assert [pair["source_chunk_id"] for pair in first] == ["en-1"]
    assert [handle.id for handle in first.pending] == [tasks[0].id]
    answer(tasks[0])
    second = collect_results(first.pending, timeout=WAIT_S)
    assert [pair["source_chunk_id"] for pair in second] == ["en-0"]
    assert second.pending == []


@pytest.mark.parametrize(("kind", "why"), [("dead", "not JSON"), ("rejected", "invalid")])
def test_a_chunk_without_a_pair_is_reported(
    answer: Callable[..., None], kind: OutcomeKind, why: str
) -> None:
    tasks = submit_parallel_qa_generation(chunks(2), None, MODEL, 1)
    answer(tasks[0], kind)
    answer(tasks[1])
    collected = collect_results(tasks, timeout=WAIT_S)
    assert len(collected) == 1
    assert collected.failed.keys() == {"en-0"}
    assert why in collected.failed["en-0"]


def test_a_dead_chunk_of_another_run_is_waited_for(answer: Callable[..., None]) -> None:
    tasks = submit_parallel_qa_generation(chunks(1), None, MODEL)
    answer(tasks[0], "dead", run_id="earlier")
    assert collect_results(tasks, timeout=0).pending == tasks


def test_a_task_whose_message_could_not_be_read_is_reported_by_its_id(redis_client: Redis) -> None:
    result = generate_qa_for_batch_async.delay([{"chunk_id": "c"}])
    note = TaskNote(error="chunk c: text: Field required")
    TaskNotes(redis_client).write(result.id, note, keep=timedelta(hours=1))
    collected = collect_results([result], timeout=WAIT_S)
    assert (list(collected), collected.pending) == ([], [])
    assert collected.failed == {result.id: "chunk c: text: Field required"}


def test_a_task_whose_message_got_lost_is_sent_again(
    redis_client: Redis, answer: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = submit_parallel_qa_generation(chunks(3), None, MODEL)
    redis_client.flushall()
    monkeypatch.setattr(collecting, "RECONCILE_EVERY_S", 0.0)
    monkeypatch.setattr(collecting, "LOST_AFTER_S", -1.0)
    pending = collect_results(tasks, timeout=0).pending
    assert redis_client.llen(keys.queue("qa_generation")) == 1
    monkeypatch.setattr(collecting, "LOST_AFTER_S", 60.0)
    collect_results(pending, timeout=0)
    assert redis_client.llen(keys.queue("qa_generation")) == 1
    answer(tasks[0])
    assert len(collect_results(pending, timeout=WAIT_S)) == 3


def test_without_redis_there_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/no.sock")
    with pytest.raises(StoreUnavailable, match="start it, or correct REDIS_URL"):
        collect_results([AsyncResult("t1")], timeout=0)


def test_a_worker_answers_what_was_submitted_and_what_was_delayed(
    simulator: Callable[..., SimulatorProcess],
    worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    api = simulator()
    monkeypatch.setenv("OPENAI_BASE_URL", api.base_url)
    worker(base_url=api.base_url)
    both = chunks(4) + chunks(4, "ja")
    submitted = submit_parallel_qa_generation(both, {"pairs_per_chunk": 1}, MODEL)
    delayed: Sequence[Any] = [
        generate_qa_for_batch_async.delay(both[:2], {"pairs_per_chunk": 1}, MODEL),
        generate_qa_for_chunk_async.delay(both[7], {"pairs_per_chunk": 1}, MODEL),
        generate_qa_for_batch_async.delay([{"chunk_id": "c"}], None, MODEL),
        generate_qa_for_batch_async.delay([both[0]], {"pairs": 1}, MODEL),
    ]
    collected = collect_results([*submitted, *delayed], timeout=WAIT_S)
    assert collected.pending == []
    expected = [chunk["chunk_id"] for chunk in [*both, *both[:2], both[7]]]
    assert [pair["source_chunk_id"] for pair in collected] == expected
    assert collected.failed == {
        delayed[2].id: "chunk c: text: Field required",
        delayed[3].id: "config.pairs: Extra inputs are not permitted",
    }
    assert api.stats()["calls"] == len(both)


def test_a_prefork_worker_gives_the_same(
    simulator: Callable[..., SimulatorProcess], worker: StartWorker
) -> None:
    api = simulator()
    worker(base_url=api.base_url, QAWORKER_POOL="prefork", QAWORKER_PREFORK_CHILDREN="2")
    begun_s = time.time()
    tasks = submit_parallel_qa_generation(chunks(6, "ja"), {"pairs_per_chunk": 1}, MODEL)
    assert all(task.sent_at >= begun_s for task in tasks)
    collected = collect_results(tasks, timeout=WAIT_S)
    assert [pair["source_chunk_id"] for pair in collected] == [f"ja-{n}" for n in range(6)]
