"""Prints how many chunks per second one core cuts and counts, English and Japanese.

The English text is what the machine carries: Debian's common licenses and the Python library's
own documentation. The Japanese text is any Japanese manual page or document found there, else the
project's samples. `--scale 0.05` does a twentieth of the work.
"""

from __future__ import annotations

import argparse
import html
import inspect
import pydoc_data.topics
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from qaworker.corpus.chunking import Chunker
from qaworker.corpus.language import detect
from qaworker.corpus.reading import Reader, Source
from qaworker.models import Document, Language

SAMPLES = Path(__file__).parents[1] / "samples"
CHARACTERS = {"en": 4_000_000, "ja": 1_000_000}
DOCUMENT_CHARACTERS = 5_000
_TAG = re.compile(r"<[^>]+>")


def english() -> Iterator[str]:
    """Texts in English."""
    for path in sorted(Path("/usr/share/common-licenses").glob("*")):
        yield path.read_text(errors="replace")
    yield from pydoc_data.topics.topics.values()
    for module in list(sys.modules.values()):
        yield inspect.getdoc(module) or ""


def japanese(folders: list[Path]) -> Iterator[str]:
    """Texts in Japanese: files under ``folders`` in a directory named ``ja``, then the samples."""
    for folder in folders:
        for path in sorted(folder.glob("**/ja/**/*.html")):
            main = re.search(r"<main>(.*)</main>", path.read_text(errors="replace"), re.DOTALL)
            text = html.unescape(_TAG.sub("", main[1])) if main else ""
            if detect(text) == "ja":
                yield text
    for document in Reader(Source(path=SAMPLES, language="auto")):
        if document.language == "ja":
            yield document.text


def documents(texts: list[str], language: Language, characters: int) -> list[Document]:
    """``texts`` over and over, in documents of 5,000 characters, until there are enough."""
    whole = "\n\n".join(text.strip() for text in texts)
    whole *= characters // len(whole) + 1
    return [
        Document(
            doc_id=f"{language}-{start}",
            text=whole[start : start + DOCUMENT_CHARACTERS],
            language=language,
        )
        for start in range(0, characters, DOCUMENT_CHARACTERS)
    ]


def measure(documents: list[Document]) -> tuple[int, int, float]:
    """Chunks, their tokens, and the processor seconds they took."""
    chunker = Chunker("gpt-5-mini", chunk_size=300)
    began = time.process_time()
    chunks = [chunk for document in documents for chunk in chunker.chunks(document)]
    took_s = time.process_time() - began
    return len(chunks), sum(chunk.tokens for chunk in chunks), took_s


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work to do")
    parser.add_argument(
        "--folders", type=Path, nargs="*", default=[Path("/usr/share/doc"), Path("/usr/share/man")]
    )
    options = parser.parse_args()
    sources: dict[Language, list[str]] = {
        "en": list(english()),
        "ja": list(japanese(options.folders)),
    }
    print(f"{'':4}{'characters':>12}{'chunks':>9}{'tokens':>10}{'CPU s':>8}{'chunks/s':>10}")
    for language, texts in sources.items():
        size = max(DOCUMENT_CHARACTERS, int(CHARACTERS[language] * options.scale))
        chunks, tokens, took_s = measure(documents(texts, language, size))
        rate = chunks / took_s
        print(f"{language:4}{size:12,}{chunks:9,}{tokens:10,}{took_s:8.2f}{rate:10,.0f}")


if __name__ == "__main__":
    main()
