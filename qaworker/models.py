"""The values that pass between the parts: documents, chunks, pairs and outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Language = Literal["en", "ja"]
QuestionType = Literal["fact", "reason", "comparison", "application"]
Difficulty = Literal["easy", "medium", "hard"]
Priority = Literal["high", "normal", "low"]
OutcomeKind = Literal["ok", "rejected", "dead"]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high"]

MAX_PAIRS_PER_CHUNK = 20
MAX_BATCH_CHUNKS = 5


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a dataset."""

    doc_id: str
    text: str
    language: Language


class Value(BaseModel):
    """A value that never changes, tolerates no unknown field, and shows no text in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Origin(Value):
    """Where a chunk comes from, and its language."""

    chunk_id: Annotated[str, Field(min_length=1)]
    language: Language
    doc_id: str = ""
    chunk_idx: Annotated[int, Field(ge=0)] = 0
    dataset_type: str = "custom"


class Chunk(Origin):
    """A piece of one document: ``text`` is ``document.text[start:end]``, in characters."""

    text: Annotated[str, Field(min_length=1)]
    pairs_wanted: Annotated[int, Field(ge=1, le=MAX_PAIRS_PER_CHUNK)]
    start: Annotated[int, Field(ge=0)] = 0
    end: Annotated[int, Field(ge=0)] = 0
    tokens: Annotated[int, Field(ge=0)] = 0

    @property
    def origin(self) -> Origin:
        """All but the text and its measures."""
        return Origin.model_construct(
            chunk_id=self.chunk_id,
            language=self.language,
            doc_id=self.doc_id,
            chunk_idx=self.chunk_idx,
            dataset_type=self.dataset_type,
        )


class GenerationConfig(Value):
    """How answers are generated: the ``config`` argument of the Celery tasks, all of it optional."""

    base_url: str = ""
    """Of the API that answers: one's answers do not stand for another's. Empty: OPENAI_BASE_URL."""
    language: Literal["auto", "en", "ja"] = "auto"
    """Of chunks that do not say their own; ``auto`` decides by script."""
    pairs_per_chunk: Annotated[int, Field(ge=1, le=MAX_PAIRS_PER_CHUNK)] = 3
    """Wanted from chunks that do not say their own number."""
    batch_chunks: Annotated[int, Field(ge=1, le=MAX_BATCH_CHUNKS)] = 1
    """Chunks in one prompt."""
    dataset_type: str = "custom"
    """Of chunks that do not say their own."""
    reasoning_effort: ReasoningEffort = "minimal"
    """Sent to reasoning models only."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 0.3
    """Sent to other models only."""


class QAPair(Value):
    """A question, its answer, and the words of the chunk that prove it."""

    question: Annotated[str, Field(min_length=1)]
    answer: Annotated[str, Field(min_length=1)]
    question_type: QuestionType
    difficulty: Difficulty
    evidence: Annotated[str, Field(min_length=1)]


class Usage(Value):
    """Tokens the provider charged for; ``cached`` is part of ``input``, ``reasoning`` of ``output``."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0

    @property
    def is_told(self) -> bool:
        """Whether the provider told it of a call, as some servers do not: no prompt is empty."""
        return self.input > 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input=self.input + other.input,
            output=self.output + other.output,
            cached=self.cached + other.cached,
            reasoning=self.reasoning + other.reasoning,
        )


class Outcome(Value):
    """What became of a chunk, addressed by the digest of everything that shaped the answer."""

    digest: str
    kind: OutcomeKind
    reason: str = ""
    """Why there are no pairs; empty when ``kind`` is ``ok``."""
    detail: str = ""
    """The last error, redacted and short; only of dead chunks."""
    pairs: tuple[QAPair, ...] = ()
    dropped: int = 0
    """Pairs of the answer that were not acceptable."""
    usage: Usage = Usage()
    calls: int = 0
    """Calls made for this chunk; a call shared by several chunks counts for the first."""
    run_id: str = ""
    """The run that paid for it."""
