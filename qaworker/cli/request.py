"""The options that say what a dataset is and how to make pairs of it, for commands that read one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qaworker.client.intake import Request
from qaworker.corpus import datasets
from qaworker.corpus.reading import Source
from qaworker.models import MAX_BATCH_CHUNKS, MAX_PAIRS_PER_CHUNK, GenerationConfig
from qaworker.settings import Settings

_DEFAULT_CHUNK_SIZE = 300
_DEFAULT_PAIRS = 3

_OPTIONS = (
    click.option("--dataset", type=click.Choice(sorted(datasets.PRESETS)), help="A known dataset: preprocessed_NAME.csv under QAWORKER_DATA_DIR."),
    click.option("--input-file", type=click.Path(path_type=Path), help="CSV, JSONL, JSON, Parquet, text or Markdown, a directory of them, gzip of any."),
    click.option("--text-column", help="Column of the text.  [default: the first of Combined_Text, text, content, body]"),
    click.option("--id-column", help="Column of the document's id.  [default: file name and row number]"),
    click.option("--language", type=click.Choice(["auto", "en", "ja"]), help="Language of the documents; auto decides by script.  [default: auto, or the dataset's]"),
    click.option("--skip-bad-rows", is_flag=True, help="Leave bad rows out and report how many, instead of stopping."),
    click.option("--max-docs", type=click.IntRange(1), help="Read only so many documents."),
    click.option("--model", help="The model to ask.  [default: QAWORKER_MODEL]"),
    click.option("--pairs-per-chunk", type=click.IntRange(1, MAX_PAIRS_PER_CHUNK), help=f"Pairs wanted from a chunk of full size.  [default: {_DEFAULT_PAIRS}, or the dataset's]"),
    click.option("--chunk-size", type=click.IntRange(16), help=f"Tokens of a chunk before merging.  [default: {_DEFAULT_CHUNK_SIZE}, or the dataset's]"),
    click.option("--min-tokens", type=click.IntRange(0), default=150, show_default=True, help="Chunks smaller than this join a neighbour."),
    click.option("--max-tokens", type=click.IntRange(16), default=400, show_default=True, help="No chunk is larger than this."),
    click.option("--merge-chunks/--no-merge-chunks", default=True, show_default=True, help="Whether small chunks join a neighbour."),
    click.option("--batch-chunks", type=click.IntRange(1, MAX_BATCH_CHUNKS), default=1, show_default=True, help="Chunks in one prompt."),
    click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Which queue.  [default: qa_generation, between high and normal]"),
    click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="The run directory.  [default: one for this request, under QAWORKER_RUNS_DIR]"),
)  # fmt: skip


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; they reach the command as keyword arguments for :func:`read_request`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_request(settings: Settings, options: dict[str, Any]) -> tuple[Request, Path]:
    """The request that the options make, and the directory of its run.

    Raises:
        UsageError: the options contradict each other.
        InputError: the dataset is not there.
    """
    name: str | None = options["dataset"]
    path: Path | None = options["input_file"]
    if (name is None) == (path is None):
        raise click.UsageError("give either --dataset NAME or --input-file FILE")
    preset = datasets.PRESETS[name] if name is not None else None
    if path is None:
        path = datasets.locate(str(name), settings.data_dir)
    source = Source(
        path=path,
        text_column=options["text_column"] or (preset.text_column if preset else None),
        id_column=options["id_column"],
        language=options["language"] or (preset.language if preset else "auto"),
        skip_bad_rows=options["skip_bad_rows"],
        max_docs=options["max_docs"],
    )
    config = GenerationConfig(
        base_url=settings.openai_base_url,
        pairs_per_chunk=options["pairs_per_chunk"]
        or (preset.pairs_per_chunk if preset else _DEFAULT_PAIRS),
        batch_chunks=options["batch_chunks"],
        dataset_type=name or "custom",
    )
    request = Request(
        source=source,
        chunk_size=options["chunk_size"] or (preset.chunk_size if preset else _DEFAULT_CHUNK_SIZE),
        min_tokens=options["min_tokens"],
        max_tokens=options["max_tokens"],
        merge_chunks=options["merge_chunks"],
        config=config,
        model=options["model"] or settings.model,
        priority=options["priority"],
    )
    return request, options["output"] or request.default_directory(settings.runs_dir)
