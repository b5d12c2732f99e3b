"""The words sent to the model: one static system message per language, and the chunks.

The system message comes first and never varies, so that providers can cache it; it is short, as it
is paid for in every call.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Final

from qaworker.models import Chunk, Language

PROMPT_VERSION: Final = "1"
"""Part of every outcome's address: raise it with any change to the templates or the user message."""

_REPAIR: Final[dict[Language, str]] = {
    "en": "Your last answer could not be used: {problem}. Answer again, with the JSON object only.",
    "ja": "前回の回答は使えませんでした: {problem}。JSON オブジェクトだけで回答し直してください。",
}


@cache
def system_message(language: Language) -> str:
    """The instructions, in the language of the text."""
    template = resources.files(__package__).joinpath("templates", f"{language}.txt")
    return template.read_text(encoding="utf-8")


def local_id(position: int) -> str:
    """The id of the chunk at ``position`` (from 0) of a shared prompt; short, as it is paid for."""
    return f"c{position + 1}"


def user_message(chunks: Sequence[Chunk]) -> str:
    """The chunks of one prompt, each in a block that says how many pairs are wanted of it."""
    if len(chunks) == 1:
        return f'<chunk pairs="{chunks[0].pairs_wanted}">\n{chunks[0].text}\n</chunk>'
    return "\n".join(
        f'<chunk id="{local_id(position)}" pairs="{chunk.pairs_wanted}">\n{chunk.text}\n</chunk>'
        for position, chunk in enumerate(chunks)
    )


def repair_message(language: Language, problem: str) -> str:
    """What is said after an answer that was not valid; ``problem`` is the error's message."""
    return _REPAIR[language].format(problem=problem)
