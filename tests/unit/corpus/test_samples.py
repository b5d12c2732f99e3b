from __future__ import annotations

from pathlib import Path

import pytest

from qaworker.corpus.chunking import Chunker
from qaworker.corpus.datasets import PRESETS, locate
from qaworker.corpus.language import detect
from qaworker.corpus.reading import Reader, Source

SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.mark.parametrize(("name", "long"), [("cc_news", 9_000), ("wikipedia_ja", 3_000)])
def test_a_sample_dataset_is_found_read_and_chunked(name: str, long: int) -> None:
    known = PRESETS[name]
    source = Source(
        path=locate(name, SAMPLES),
        text_column=known.text_column,
        id_column="id",
    )
    documents = list(Reader(source))
    assert len(documents) >= 12
    assert {document.language for document in documents} == {known.language}
    assert sum(len(document.text) >= long for document in documents) >= 2

    chunker = Chunker(
        "gpt-5-mini", chunk_size=known.chunk_size, pairs_per_chunk=known.pairs_per_chunk
    )
    chunks = [chunk for document in documents for chunk in chunker.chunks(document)]
    assert len(chunks) >= 40
    assert {detect(chunk.text) for chunk in chunks} == {known.language}


def test_the_whole_directory_is_a_dataset_too() -> None:
    documents = list(Reader(Source(path=SAMPLES)))
    assert len({document.doc_id for document in documents}) == len(documents) >= 30
