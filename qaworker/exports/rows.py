"""The columns of every export, and the rows they hold: one for each Q/A pair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from qaworker.models import Difficulty, Language, Origin, Outcome, QuestionType


class Row(NamedTuple):
    """One Q/A pair; the order of the fields is that of the columns."""

    question: str
    answer: str
    question_type: QuestionType
    source_chunk_id: str
    doc_id: str
    dataset_type: str
    chunk_idx: int
    difficulty: Difficulty
    evidence: str
    language: Language


def rows(results: Iterable[tuple[Origin, Outcome]]) -> Iterator[Row]:
    """The pairs of each chunk, in the order of the chunks."""
    for chunk, outcome in results:
        for pair in outcome.pairs:
            yield Row(
                question=pair.question,
                answer=pair.answer,
                question_type=pair.question_type,
                source_chunk_id=chunk.chunk_id,
                doc_id=chunk.doc_id,
                dataset_type=chunk.dataset_type,
                chunk_idx=chunk.chunk_idx,
                difficulty=pair.difficulty,
                evidence=pair.evidence,
                language=chunk.language,
            )
