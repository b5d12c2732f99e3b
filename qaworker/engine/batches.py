"""What a task carries: chunks of one configuration and model, validated, with their digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from qaworker.corpus import language
from qaworker.errors import MessageInvalid
from qaworker.llm.addresses import outcome_digest
from qaworker.models import Chunk, GenerationConfig, Origin


@dataclass(frozen=True, slots=True)
class Batch:
    """The list of chunks one task carries; ``digests[i]`` addresses the outcome of ``chunks[i]``."""

    chunks: tuple[Chunk, ...]
    digests: tuple[str, ...]
    config: GenerationConfig
    model: str
    run_id: str = ""
    task_id: str = ""
    is_budgeted: bool = False
    """Whether its run had a budget when it was sent."""
    queue: str = ""
    """Where its task was read; empty for a batch that no worker took from one."""
    waited_s: float | None = None
    """How long ago its message was sent, where it says so."""
    is_redelivered: bool = False
    """Whether its message came to a worker before."""

    def by_digest(self) -> dict[str, Chunk]:
        """One chunk for each distinct digest, in order."""
        chunks: dict[str, Chunk] = {}
        for digest, chunk in zip(self.digests, self.chunks, strict=True):
            chunks.setdefault(digest, chunk)
        return chunks

    def origins(self) -> tuple[tuple[str, Origin], ...]:
        """The digest of each chunk, and where it comes from."""
        return tuple((d, chunk.origin) for d, chunk in zip(self.digests, self.chunks, strict=True))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    return f"{where}: {problem['msg']}" if where else problem["msg"]


def parse_config(config: Mapping[str, Any] | GenerationConfig | None) -> GenerationConfig:
    """Validate the ``config`` argument of the tasks and of ``submit_parallel_qa_generation``.

    Raises:
        MessageInvalid: a field is unknown or has a value that is not allowed.
    """
    try:
        return GenerationConfig.model_validate(config if config is not None else {})
    except ValidationError as error:
        raise MessageInvalid(f"config.{_first_problem(error)}") from error


def parse_chunk(data: Mapping[str, Any] | Chunk, config: GenerationConfig) -> Chunk:
    """Validate one chunk; what it does not say of itself comes from ``config``.

    ``chunk_id`` and ``text`` are required. Fields a chunk does not have are refused, so that a
    misspelt one is not silently ignored.

    Raises:
        MessageInvalid: a field is missing, unknown, or has a value that is not allowed.
    """
    if isinstance(data, Chunk):
        return data
    if not isinstance(data, Mapping):
        raise MessageInvalid(f"a chunk is a dictionary, not {type(data).__name__}")
    fields = dict(data)
    text = fields.get("text")
    if "language" not in fields:
        if config.language != "auto":
            fields["language"] = config.language
        else:  # of a text that is none, only what is wrong with it is said
            fields["language"] = language.detect(text) if isinstance(text, str) else "en"
    fields.setdefault("pairs_wanted", config.pairs_per_chunk)
    fields.setdefault("dataset_type", config.dataset_type)
    try:
        return Chunk.model_validate(fields)
    except ValidationError as error:
        raise MessageInvalid(
            f"chunk {fields.get('chunk_id', '?')}: {_first_problem(error)}"
        ) from error


def parse_batch(
    chunks: Sequence[Mapping[str, Any] | Chunk],
    config: Mapping[str, Any] | GenerationConfig | None,
    model: str,
    *,
    base_url: str = "",
    run_id: str = "",
    task_id: str = "",
) -> Batch:
    """Validate what a task was sent; ``base_url`` is for a ``config`` that has none.

    Raises:
        MessageInvalid: it is not a list of chunks with a configuration and a model.
    """
    if not isinstance(model, str) or not model:
        raise MessageInvalid("model: the name of a model is required")
    if isinstance(chunks, str | Mapping) or not isinstance(chunks, Sequence) or not chunks:
        raise MessageInvalid("chunks: a list with at least one chunk is required")
    parsed_config = parse_config(config)
    if not parsed_config.base_url:
        parsed_config = parsed_config.model_copy(update={"base_url": base_url})
    parsed = tuple(parse_chunk(chunk, parsed_config) for chunk in chunks)
    digests = tuple(outcome_digest(chunk, parsed_config, model) for chunk in parsed)
    return Batch(parsed, digests, parsed_config, model, run_id, task_id)
