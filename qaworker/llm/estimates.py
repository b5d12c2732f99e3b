"""What a call takes of the provider's limit, before it is made: learnt from the calls before it."""

from __future__ import annotations

import json
import math
from collections import defaultdict, deque
from collections.abc import Sequence
from functools import cache
from typing import Final, NamedTuple

from qaworker.llm import prompts
from qaworker.llm.request import output_cap
from qaworker.llm.schema import response_format
from qaworker.models import Chunk, GenerationConfig, Language, Usage

# UTF-8 bytes of a token: 4.4 in English text, 3.6 in Japanese. Fewer here, as too many reserved
# tokens come back with the answer, and too few are refused by the provider.
_BYTES_PER_TOKEN: Final = 3
# The sentence that says what was wrong with the last answer.
_REPAIR_TOKENS: Final = 80
# One prompt that was counted oddly is forgotten after as many others.
_LAST: Final = 100

_Kind = tuple[str, Language, int]
"""Model, language, and number of chunks."""


class Tokens(NamedTuple):
    """What a call takes of the provider's limit when it is admitted."""

    input: int
    output_cap: int

    @property
    def total(self) -> int:
        """Both: what the provider counts."""
        return self.input + self.output_cap


class Estimates:
    """Counts without a vocabulary, which would take 66 MiB of every worker process.

    A chunk brings its own count from the client. What a prompt has around its chunks is measured by
    the provider, with each answer; the most of the last ones is taken.
    """

    def __init__(self) -> None:
        self._around: defaultdict[_Kind, deque[int]] = defaultdict(lambda: deque(maxlen=_LAST))

    def tokens(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,
        model: str,
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,
    ) -> Tokens:
        """Prompt and output cap of a request."""
        language, count = chunks[0].language, len(chunks)
        last = self._around.get((model, language, count))
        around = max(last) if last else _first_guess(language, count)
        prompt = sum(map(_tokens, chunks)) + around
        more = _REPAIR_TOKENS if repair is not None else 0
        cap = output_cap(chunks, config, model, cap_factor=cap_factor)
        return Tokens(max(0, prompt) + more, cap)

    def learn(self, chunks: Sequence[Chunk], model: str, usage: Usage) -> None:
        """Take what the provider counted for a prompt of these chunks, which was not a repair."""
        if not usage.is_told:
            return
        around = usage.input - sum(map(_tokens, chunks))
        self._around[model, chunks[0].language, len(chunks)].append(around)


def _tokens(chunk: Chunk) -> int:
    return chunk.tokens or _guess(chunk.text)


def _guess(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


@cache
def _first_guess(language: Language, chunk_count: int) -> int:
    schema = json.dumps(response_format(chunk_count)["json_schema"])
    return _guess(prompts.system_message(language)) + _guess(schema)
