from __future__ import annotations

import pytest

from qaworker.exports.rows import Row, rows
from qaworker.models import Chunk, Outcome, QAPair


def test_the_columns_keep_their_names_and_order() -> None:
    assert Row._fields == (
        "question",
        "answer",
        "question_type",
        "source_chunk_id",
        "doc_id",
        "dataset_type",
        "chunk_idx",
        "difficulty",
        "evidence",
        "language",
    )


@pytest.mark.parametrize(
    ("language", "text"),
    [("en", "The bridge opened in 1937."), ("ja", "橋は一九三七年に開通した。")],
)
def test_a_row_joins_the_pair_and_its_chunk(language: str, text: str) -> None:
    chunk = Chunk.model_validate(
        {
            "chunk_id": "d1-2",
            "text": text,
            "language": language,
            "pairs_wanted": 1,
            "doc_id": "d1",
            "chunk_idx": 2,
            "dataset_type": "livedoor",
        }
    )
    pair = QAPair(
        question=f"{text}?",
        answer=text[:5],
        question_type="reason",
        difficulty="hard",
        evidence=text,
    )
    outcome = Outcome(digest="d", kind="ok", pairs=(pair,))
    assert list(rows([(chunk, outcome)])) == [
        (f"{text}?", text[:5], "reason", "d1-2", "d1", "livedoor", 2, "hard", text, language)
    ]


def test_chunks_without_pairs_have_no_rows() -> None:
    chunk = Chunk(chunk_id="c", text="t", language="en", pairs_wanted=1)
    outcome = Outcome(digest="d", kind="rejected", reason="no_pairs")
    assert not list(rows([(chunk, outcome)]))
