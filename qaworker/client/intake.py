"""From what a command was asked to a ledger full of chunks, before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from qaworker.corpus.chunking import Chunker
from qaworker.corpus.files import fingerprint
from qaworker.corpus.reading import Reader, Source
from qaworker.errors import ConfigError
from qaworker.llm.addresses import outcome_digest
from qaworker.llm.prompts import PROMPT_VERSION
from qaworker.llm.schema import SCHEMA_VERSION
from qaworker.models import Chunk, GenerationConfig, Priority
from qaworker.store.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A dataset, and how to make pairs of it."""

    source: Source
    chunk_size: int
    """Tokens of a chunk before small ones are merged; so are the two limits."""
    min_tokens: int
    max_tokens: int
    merge_chunks: bool
    config: GenerationConfig
    model: str
    priority: Priority | None

    def description(self) -> dict[str, Any]:
        """Everything that shapes the run, as JSON; equal requests have equal descriptions."""
        source = self.source
        return {
            "input": str(source.path),
            "text_column": source.text_column,
            "id_column": source.id_column,
            "language": source.language,
            "skip_bad_rows": source.skip_bad_rows,
            "max_docs": source.max_docs,
            "chunk_size": self.chunk_size,
            "min_tokens": self.min_tokens,
            "max_tokens": self.max_tokens,
            "merge_chunks": self.merge_chunks,
            "model": self.model,
            "prompt_version": PROMPT_VERSION,
            "schema_version": SCHEMA_VERSION,
            "priority": self.priority,
            "config": self.config.model_dump(),
        }

    def default_directory(self, runs_dir: Path) -> Path:
        """The run directory of this request: the same request finds its run again."""
        text = json.dumps(self.description(), sort_keys=True)
        digest = blake2b(text.encode(), digest_size=4).hexdigest()
        return runs_dir / f"{self.config.dataset_type}-{digest}"


def prepare(
    request: Request, directory: Path, *, on_document: Callable[[int], None] = lambda _: None
) -> Ledger:
    """Open the run in ``directory`` and fill its ledger, unless an earlier command did.

    Args:
        request: what to do.
        directory: the run directory; made when missing.
        on_document: told the number of documents read so far.

    Raises:
        InputError: the dataset cannot be read; nothing was sent.
        ConfigError: the directory holds another run, or the dataset changed since it began.
        RunDirectoryError: the directory cannot be used.
    """
    ledger = Ledger.create_or_open(directory)
    try:
        _describe(ledger, request)
        if not ledger.filled:
            _fill(ledger, request, on_document)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _describe(ledger: Ledger, request: Request) -> None:
    path = request.source.path
    changed = {"fingerprint": fingerprint(path)}
    description = request.description() | changed
    made_with = ledger.description
    if ledger.filled and made_with != description and made_with | changed == description:
        raise ConfigError(f"{path} has changed since this run began: give another --output")
    ledger.describe(description)


class Intake:
    """The chunks of a request with their digests, streamed and in order; read it once."""

    def __init__(self, request: Request, on_document: Callable[[int], None]) -> None:
        """Prepare to read; raises ConfigError when the sizes of chunks contradict each other."""
        self._request = request
        self._on_document = on_document
        self._reader = Reader(request.source)
        self._chunker = Chunker(
            request.model,
            chunk_size=request.chunk_size,
            min_tokens=request.min_tokens,
            max_tokens=request.max_tokens,
            merge=request.merge_chunks,
            pairs_per_chunk=request.config.pairs_per_chunk,
            dataset_type=request.config.dataset_type,
        )
        self.documents = 0
        """Read so far."""

    @property
    def skipped_rows(self) -> int:
        """Bad rows left out so far."""
        return self._reader.skipped

    def __iter__(self) -> Iterator[tuple[Chunk, str]]:
        """Raises InputError: the dataset cannot be read."""
        config, model = self._request.config, self._request.model
        for document in self._reader:
            for chunk in self._chunker.chunks(document):
                yield chunk, outcome_digest(chunk, config, model)
            self.documents += 1
            self._on_document(self.documents)


def _fill(ledger: Ledger, request: Request, on_document: Callable[[int], None]) -> None:
    intake = Intake(request, on_document)
    ledger.fill(intake)
    ledger.mark_filled(documents=intake.documents, skipped_rows=intake.skipped_rows)
