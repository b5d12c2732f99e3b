from __future__ import annotations

import pytest

from qaworker.store.counters import (
    CALL,
    CHUNKS,
    REDELIVERIES,
    REQUESTS,
    TASK_WAIT,
    Counts,
)


def test_a_model_is_told_apart_from_the_other_labels_whatever_it_is_called() -> None:
    counts = Counts()
    counts.add(CHUNKS, "ok", by=2)
    counts.add(REDELIVERIES)
    counts.add(REQUESTS, "ok", "a|b")
    assert counts.take().counts == {
        ("chunks|ok", ""): 2,
        ("redeliveries", ""): 1,
        ("requests|ok", "a|b"): 1,
    }


@pytest.mark.parametrize(
    ("duration_s", "bound"), [(0.0, "0.25"), (0.25, "0.25"), (0.26, "0.5"), (1000.0, "+Inf")]
)
def test_a_duration_counts_under_what_it_is_at_most(duration_s: float, bound: str) -> None:
    counts = Counts()
    counts.observe(CALL, duration_s, "m")
    assert counts.take().counts == {
        (f"call|{bound}", "m"): 1,
        ("call|sum", "m"): round(duration_s * 1e6),
    }


def test_what_is_no_model_is_never_taken_for_one() -> None:
    counts = Counts()
    counts.observe(TASK_WAIT, 2.0, "qa_generation")
    assert {model for _, model in counts.take().counts} == {""}


def test_a_batch_is_taken_once_and_has_a_number_of_its_own() -> None:
    counts = Counts()
    counts.add(CHUNKS, "ok")
    first, second = counts.take(), counts.take()
    assert (first.number, second.number) == (1, 2)
    assert not second.counts


def test_what_was_put_back_goes_with_the_next_batch() -> None:
    counts = Counts()
    counts.add(CHUNKS, "ok")
    portion = counts.take()
    counts.add(CHUNKS, "ok", by=2)
    counts.put_back(portion)
    assert not counts.is_empty
    assert counts.take().counts == {("chunks|ok", ""): 3}
    assert counts.is_empty
