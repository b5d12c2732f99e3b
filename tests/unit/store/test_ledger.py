from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qaworker.errors import ConfigError
from qaworker.models import Chunk, Outcome, QAPair, Usage
from qaworker.store.ledger import Ledger

TEXTS = {
    "en": 'The harbour of Kobe opened to foreign trade in 1868, "late" as it was.',
    "ja": "神戸港は一八六八年に外国貿易のために開かれた。\n「遅い」と言われた。𠮷野家。",
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create_or_open(tmp_path / "run") as opened:
        yield opened


def chunk(number: int, text: str = "", language: str = "en") -> Chunk:
    return Chunk.model_validate(
        {
            "chunk_id": f"doc-{number}",
            "text": text or f"{TEXTS['en']} {number}",
            "language": language,
            "pairs_wanted": 3,
            "doc_id": "doc",
            "chunk_idx": number,
            "dataset_type": "cc_news",
            "start": 7 * number,
            "end": 7 * number + 5,
            "tokens": 40,
        }
    )


def filled(ledger: Ledger, chunks: int = 5) -> Ledger:
    """Chunks 0, 1, … whose digests are d0, d1, …."""
    ledger.fill((chunk(n), f"d{n}") for n in range(chunks))
    ledger.mark_filled(documents=1, skipped_rows=0)
    return ledger


def pair(text: str = TEXTS["en"]) -> QAPair:
    return QAPair(
        question=f"{text[:8]}?",
        answer=text[4:20],
        question_type="fact",
        difficulty="easy",
        evidence=text[:30],
    )


def ok(ledger: Ledger, digest: str, **fields: object) -> Outcome:
    values = {"pairs": (pair(),), "calls": 1, "usage": Usage(input=100, output=20)} | fields
    return Outcome.model_validate(
        {"digest": digest, "kind": "ok", "run_id": ledger.run_id} | values
    )


def dead(ledger: Ledger, digest: str, reason: str = "invalid") -> Outcome:
    return Outcome(
        digest=digest,
        kind="dead",
        reason=reason,
        detail="the answer is not JSON",
        calls=4,
        usage=Usage(input=400, output=80),
        run_id=ledger.run_id,
    )


@pytest.mark.parametrize("language", ["en", "ja"])
def test_chunks_and_outcomes_come_back_as_they_were(ledger: Ledger, language: str) -> None:
    text = TEXTS[language]
    given = chunk(3, text, language)
    outcome = ok(ledger, "d", pairs=(pair(text), pair(text)), dropped=2)
    ledger.fill([(given, "d")])
    ledger.mark_filled(documents=1, skipped_rows=0)

    assert ledger.waiting(1) == [(given, "d")]
    ledger.record([outcome])
    assert list(ledger.results()) == [(given, outcome)]


def test_results_are_in_document_order_whatever_came_first(ledger: Ledger) -> None:
    filled(ledger, 20)
    ledger.record(ok(ledger, f"d{n}") for n in reversed(range(20)))
    assert [c.chunk_idx for c, _ in ledger.results()] == list(range(20))


def test_waiting_leaves_out_what_was_sent(ledger: Ledger) -> None:
    filled(ledger)
    ledger.mark_sent(["d0", "d2"], now=10.0)
    assert [digest for _, digest in ledger.waiting(2)] == ["d1", "d3"]
    assert list(ledger.sent()) == [("d0", 10.0), ("d2", 10.0)]


def test_sent_again_has_the_later_time(ledger: Ledger) -> None:
    filled(ledger)
    ledger.mark_sent(["d0"], now=10.0)
    ledger.mark_sent(["d0"], now=20.0)
    assert list(ledger.sent()) == [("d0", 20.0)]


def test_marks_do_not_touch_what_has_an_outcome(ledger: Ledger) -> None:
    filled(ledger, 1)
    ledger.record([ok(ledger, "d0")])
    ledger.mark_sent(["d0"], now=10.0)
    ledger.mark_waiting(["d0"])
    assert not list(ledger.sent())
    assert not ledger.waiting(1)


def test_what_was_not_published_waits_again_in_its_place(ledger: Ledger) -> None:
    filled(ledger)
    ledger.mark_sent(["d0", "d1"], now=10.0)
    ledger.mark_waiting(["d0"])
    assert [digest for _, digest in ledger.waiting(9)] == ["d0", "d2", "d3", "d4"]


def test_sent_can_be_marked_and_recorded_while_it_is_read(ledger: Ledger) -> None:
    filled(ledger, 2500)
    ledger.mark_sent([f"d{n}" for n in range(2500)], now=10.0)
    seen = []
    for digest, _ in ledger.sent():
        seen.append(digest)
        if len(seen) % 2:
            ledger.record([ok(ledger, digest)])
        else:
            ledger.mark_sent([digest], now=20.0)
    assert seen == [f"d{n}" for n in range(2500)]
    assert len(list(ledger.sent())) == 1250


def test_what_may_be_lost_waits_again_and_the_run_remembers_that_it_was_sent(
    ledger: Ledger,
) -> None:
    filled(ledger)
    ledger.mark_sent(["d1", "d3"], now=20.0)
    ledger.record([Outcome(digest="d3", kind="ok")])
    ledger.await_again(["d3", "unknown", "d1"])
    assert not list(ledger.sent())
    assert "d1" in [digest for _, digest in ledger.waiting(9)]
    assert ledger.was_sent


@pytest.mark.parametrize("language", ["en", "ja"])
def test_equal_texts_are_sent_once_and_share_the_outcome(ledger: Ledger, language: str) -> None:
    text = TEXTS[language]
    twins = [chunk(0, text, language), chunk(2, text, language)]
    ledger.fill([(twins[0], "same"), (chunk(1), "other"), (twins[1], "same")])
    ledger.mark_filled(documents=1, skipped_rows=0)
    assert ledger.waiting(9) == [(twins[0], "same"), (chunk(1), "other")]

    outcome = ok(ledger, "same", pairs=(pair(text),))
    assert ledger.record([outcome]) == 1
    assert list(ledger.results()) == [(twins[0], outcome), (twins[1], outcome)]
    counts = ledger.counts()
    assert (counts.chunks, counts.distinct, counts.ok, counts.pairs) == (3, 2, 2, 2)
    assert (counts.calls, counts.usage.input) == (1, 100)


def test_the_first_answer_stays(ledger: Ledger) -> None:
    filled(ledger, 1)
    first = ok(ledger, "d0")
    assert ledger.record([first, ok(ledger, "d0", dropped=3)]) == 1
    later = Outcome(digest="d0", kind="rejected", reason="no_pairs", run_id=ledger.run_id)
    assert ledger.record([later, dead(ledger, "d0")]) == 0
    assert [outcome for _, outcome in ledger.results()] == [first]
    assert ledger.counts().settled == ledger.counts().ok == 1
    assert ledger.counts().dropped == 0


def test_an_answer_replaces_a_dead_chunk_and_the_cost_of_both_counts(ledger: Ledger) -> None:
    filled(ledger, 1)
    assert ledger.record([dead(ledger, "d0"), dead(ledger, "d0", "truncated")]) == 1
    assert ledger.counts().reasons == {"rejected": {}, "dead": {"invalid": 1}}

    answer = ok(ledger, "d0")
    assert ledger.record([answer]) == 0
    assert [outcome for _, outcome in ledger.results()] == [answer]
    counts = ledger.counts()
    assert (counts.ok, counts.dead, counts.settled) == (1, 0, 1)
    assert counts.reasons == {"rejected": {}, "dead": {}}
    assert (counts.calls, counts.usage) == (5, Usage(input=500, output=100))


def test_digests_of_other_runs_are_ignored(ledger: Ledger) -> None:
    filled(ledger)
    assert ledger.record([ok(ledger, "stranger"), ok(ledger, "d1")]) == 1
    assert ledger.counts().settled == 1


def test_counts(ledger: Ledger) -> None:
    ledger.fill((chunk(n), f"d{n}") for n in range(6))
    ledger.mark_filled(documents=4, skipped_rows=2)
    usage = Usage(input=10, output=5, cached=3, reasoning=1)
    ledger.record(
        [
            ok(ledger, "d0", usage=usage, pairs=(pair(), pair()), dropped=1),
            ok(ledger, "d1", run_id="another", calls=7),
            Outcome(digest="d2", kind="rejected", reason="no_pairs", run_id=ledger.run_id),
            dead(ledger, "d3"),
            dead(ledger, "d4", "refused"),
        ]
    )
    counts = ledger.counts()
    assert (counts.documents, counts.skipped_rows, counts.chunks, counts.distinct) == (4, 2, 6, 6)
    assert (counts.ok, counts.rejected, counts.dead, counts.settled) == (2, 1, 2, 5)
    assert counts.reasons == {"rejected": {"no_pairs": 1}, "dead": {"invalid": 1, "refused": 1}}
    assert (counts.pairs, counts.dropped, counts.reused, counts.calls) == (3, 1, 1, 9)
    assert counts.usage == Usage(input=810, output=165, cached=3, reasoning=1)


def test_counts_of_a_new_run_are_zero(ledger: Ledger) -> None:
    assert (ledger.counts().chunks, ledger.counts().settled) == (0, 0)


def test_a_batch_is_recorded_whole_or_not_at_all(ledger: Ledger) -> None:
    filled(ledger)

    def outcomes() -> Iterator[Outcome]:
        yield ok(ledger, "d0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ledger.record(outcomes())
    assert not list(ledger.results())
    assert ledger.counts().settled == 0
    assert ledger.record([ok(ledger, "d0")]) == 1


def test_filling_that_failed_begins_anew(ledger: Ledger) -> None:
    def broken() -> Iterator[tuple[Chunk, str]]:
        for n in range(5000):
            yield chunk(n), f"old{n}"
        raise ConfigError("line 5001 is no text")

    with pytest.raises(ConfigError, match="5001"):
        ledger.fill(broken())
    assert not ledger.filled
    filled(ledger, 3)
    assert [digest for _, digest in ledger.waiting(99)] == ["d0", "d1", "d2"]
    assert ledger.counts().chunks == 3


def test_a_filled_ledger_is_not_filled_again(ledger: Ledger) -> None:
    filled(ledger)
    with pytest.raises(ValueError, match="filled"):
        ledger.fill([])


def test_the_description_is_compared_once_the_ledger_is_filled(ledger: Ledger) -> None:
    made_with = {"model": "gpt-5-mini", "config": {"temperature": 0.3, "language": "ja"}}
    assert ledger.description == {}
    ledger.describe({"model": "of a dataset that could not be read"})
    ledger.describe(made_with)
    filled(ledger)
    ledger.describe({"config": {"language": "ja", "temperature": 0.3}, "model": "gpt-5-mini"})
    assert ledger.description == made_with


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "B", "config": {"n": 1}}, "made with model=A, not B: give another --output"),
        ({"model": "A", "config": {"n": 2}}, r"made with config\.n=1, not 2"),
        ({"model": "A", "config": {"n": 1}, "source": "詩.csv"}, r"source=None, not 詩\.csv"),
        ({"model": "A"}, "config="),
    ],
)
def test_a_difference_of_description_is_named(
    ledger: Ledger, given: dict[str, object], message: str
) -> None:
    ledger.describe({"model": "A", "config": {"n": 1}})
    filled(ledger)
    with pytest.raises(ConfigError, match=message):
        ledger.describe(given)


def plans_of(ledger: Ledger, *questions: Callable[[], object]) -> list[str]:
    """How SQLite answers each."""
    connection = ledger._database._connection
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    for ask in questions:
        ask()
    connection.set_trace_callback(None)
    return [
        " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}"))
        for statement in statements
    ]


def test_asking_for_a_state_reads_no_more_than_it_returns(ledger: Ledger) -> None:
    filled(ledger)
    plans = plans_of(ledger, lambda: ledger.waiting(2), lambda: list(ledger.sent()))
    assert len(plans) == 2
    for plan in plans:
        assert "digest_by_state (state=?" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_what_has_no_outcome_is_read_in_one_walk_however_many_pages_it_takes(
    ledger: Ledger,
) -> None:
    filled(ledger)
    plans = plans_of(
        ledger, lambda: next(ledger.unsettled()), lambda: next(ledger.unsettled_digests())
    )
    assert len(plans) == 2
    for plan in plans:
        assert "SEARCH digest USING INTEGER PRIMARY KEY (rowid>?)" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_a_dead_chunk_that_was_sent_again_has_no_outcome_and_its_costs(ledger: Ledger) -> None:
    filled(ledger, 3)
    ledger.record([dead(ledger, "d0", "refused"), dead(ledger, "d1"), ok(ledger, "d2")])
    before = ledger.counts()
    assert ledger.reopen([("d0", 7.0), ("d2", 7.0), ("unknown", 7.0)]) == 1
    assert list(ledger.sent()) == [("d0", 7.0)]
    counts = ledger.counts()
    assert (counts.ok, counts.dead, counts.settled) == (1, 1, 2)
    assert counts.reasons["dead"] == {"invalid": 1}
    assert (counts.calls, counts.usage) == (before.calls, before.usage)
    assert [outcome.digest for _, outcome in ledger.results()] == ["d1", "d2"]

    # Dead once more: what that cost is added.
    assert ledger.record([dead(ledger, "d0", "truncated")]) == 1
    counts = ledger.counts()
    assert (counts.dead, counts.calls) == (2, before.calls + 4)
    assert counts.reasons["dead"] == {"invalid": 1, "truncated": 1}


def test_what_has_no_outcome_is_found_in_order_and_all_of_it_can_wait_again(
    ledger: Ledger,
) -> None:
    filled(ledger)
    ledger.mark_sent(["d1", "d2"], 1.0)
    ledger.record([Outcome(digest="d2", kind="ok"), Outcome(digest="d4", kind="dead")])
    assert [(c.chunk_idx, digest) for c, digest in ledger.unsettled()] == [
        (0, "d0"),
        (1, "d1"),
        (3, "d3"),
    ]
    ledger.mark_all_waiting()
    assert list(ledger.sent()) == []
    assert [digest for _, digest in ledger.waiting(9)] == ["d0", "d1", "d3"]


def test_a_run_that_was_sent_once_remembers_it(ledger: Ledger) -> None:
    filled(ledger, 3)
    ledger.record([Outcome(digest="d2", kind="ok", run_id="another")])
    told = [ledger.was_sent]
    ledger.mark_sent(["d0"], 1.0)
    ledger.mark_waiting(["d0"])
    told.append(ledger.was_sent)
    ledger.mark_sent(["d0"], 1.0)
    ledger.mark_all_waiting()
    told.append(ledger.was_sent)
    ledger.record([dead(ledger, "d0")])
    told.append(ledger.was_sent)
    assert told == [False, False, True, True]


def test_a_budget_stays_with_the_run(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path / "run") as ledger:
        assert ledger.budget_micros is None
        ledger.set_budget(2_500_000)
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.budget_micros == 2_500_000
        ledger.set_budget(5_000_000)
        assert ledger.budget_micros == 5_000_000
