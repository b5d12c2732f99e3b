"""Which pairs of an answer are kept, and for which chunk."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from qaworker.llm import evidence
from qaworker.llm.prompts import local_id
from qaworker.llm.schema import AnsweredPair
from qaworker.models import Chunk, QAPair

# A question that points at its source cannot stand alone. 本文 must not be part of a longer word:
# 日本文化 and 基本文法 contain it.
_POINTS_AT_SOURCE = re.compile(
    r"\bthis (?:article|chunk|document|excerpt|paragraph|passage|text)\b"
    r"|\bthe (?:article|excerpt|passage)\b"
    r"|\bthe (?:above|following|given|provided) (?:chunk|document|paragraph|text)\b"
    r"|\b(?:according to|in|by) the (?:author|text)\b(?! of\b)"
    r"|(?:この|上記の|次の|与えられた)(?:記事|文章|テキスト|文書|段落|チャンク)"
    r"|(?<![一-鿿])本(?:文[中内]?|記事|稿)(?![一-鿿])",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is kept of an answer; every field goes by the chunks of the prompt, in their order."""

    pairs: tuple[tuple[QAPair, ...], ...]
    dropped: tuple[int, ...]
    """Pairs not acceptable; those of no known chunk count for the first."""
    missing: tuple[int, ...]
    """Positions of chunks that a shared prompt's answer says nothing of."""


def accept(answered: Sequence[AnsweredPair], chunks: Sequence[Chunk]) -> Accepted:
    """Attribute the pairs of an answer to their chunks and keep the acceptable ones.

    A pair is dropped when a part of it is blank, its evidence does not stand in the chunk, its
    question points at the source or was asked before. Pairs beyond ``chunk.pairs_wanted`` are
    left out without being counted as dropped: there is nothing wrong with them.
    """
    texts = [evidence.normalized(chunk.text) for chunk in chunks]
    kept: list[dict[str, QAPair]] = [{} for _ in chunks]
    dropped = [0] * len(chunks)
    missing = set(range(len(chunks))) if len(chunks) > 1 else set()
    for pair in answered:
        position = _position(pair, texts)
        if position is None:
            dropped[0] += 1
            continue
        missing.discard(position)
        if len(kept[position]) == chunks[position].pairs_wanted:
            continue
        question = evidence.normalized(pair.question)
        if question in kept[position] or not _is_acceptable(pair, texts[position]):
            dropped[position] += 1
        else:
            kept[position][question] = _qa_pair(pair)
    return Accepted(
        pairs=tuple(tuple(pairs.values()) for pairs in kept),
        dropped=tuple(dropped),
        missing=tuple(sorted(missing)),
    )


def _position(pair: AnsweredPair, texts: Sequence[str]) -> int | None:
    """The chunk a pair belongs to: by its id, else by its evidence; never by its place."""
    if len(texts) == 1:
        return 0
    for position in range(len(texts)):
        if pair.chunk_id == local_id(position):
            return position
    quote = evidence.normalized(pair.evidence)
    found = [position for position, text in enumerate(texts) if evidence.stands_in(quote, text)]
    return found[0] if len(found) == 1 else None


def _is_acceptable(pair: AnsweredPair, text: str) -> bool:
    return (
        not (pair.question.isspace() or pair.answer.isspace())
        and bool(pair.question and pair.answer)
        and not _POINTS_AT_SOURCE.search(unicodedata.normalize("NFKC", pair.question))
        and evidence.stands_in(evidence.normalized(pair.evidence), text)
    )


def _qa_pair(pair: AnsweredPair) -> QAPair:
    return QAPair(
        question=pair.question.strip(),
        answer=pair.answer.strip(),
        question_type=pair.question_type,
        difficulty=pair.difficulty,
        evidence=pair.evidence.strip(),
    )
