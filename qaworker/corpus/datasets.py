"""The known datasets: how each is read and chunked, and where its file is found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from qaworker.corpus.files import ENDINGS
from qaworker.errors import InputError
from qaworker.models import Language


@dataclass(frozen=True, slots=True)
class Preset:
    """What ``--dataset NAME`` stands for."""

    name: str
    language: Language
    chunk_size: int
    """Tokens of a chunk, before small ones are merged."""
    pairs_per_chunk: int
    text_column: str = "Combined_Text"


PRESETS: Final = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset("cc_news", "en", 300, 5),
            Preset("japanese_text", "ja", 200, 2),
            Preset("wikipedia_ja", "ja", 250, 3),
            Preset("livedoor", "ja", 200, 4),
        )
    }
)


def locate(name: str, data_dir: Path) -> Path:
    """The file of a known dataset: ``preprocessed_NAME.csv``, or another ending that can be read.

    Raises:
        InputError: there is no such file.
    """
    begin = f"preprocessed_{name}"
    endings = [ending + gz for ending in ENDINGS for gz in ("", ".gz")]
    for ending in endings:
        path = data_dir / (begin + ending)
        if path.is_file():
            return path
    raise InputError(
        f"{data_dir / begin}.csv: no such file, nor with {', '.join(endings[1:])}: put it there,"
        " set QAWORKER_DATA_DIR, or name a file with --input-file"
    )
