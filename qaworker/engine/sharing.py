"""Which chunks share a prompt, and how they share what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice

from qaworker.engine.ladder import ATTEMPTS
from qaworker.engine.prompt import Prompt
from qaworker.models import Chunk
from qaworker.store.outcomes import SUSPECT_DEATHS, Spent

_NOTHING = Spent()


def prompts(
    chunks: Mapping[str, Chunk], size: int, spent: Mapping[str, Spent], deaths: Mapping[str, int]
) -> Iterator[dict[str, Chunk]]:
    """Chunks that share a prompt: up to ``size`` neighbours of one language.

    One with a single attempt left, or with a chance used up, is alone, so that each delivery brings it
    nearer to its end; so is one that workers died with, so that no other is blamed.
    """

    def kind(item: tuple[str, Chunk]) -> tuple[str, bool]:
        digest, chunk = item
        past = spent.get(digest, _NOTHING)
        is_last = past.attempts >= ATTEMPTS - 1 or past.was_truncated or past.repair != ""
        return chunk.language, is_last or deaths.get(digest, 0) >= SUSPECT_DEATHS

    for (_, is_alone), run in groupby(chunks.items(), key=kind):
        while prompt := dict(islice(run, 1 if is_alone else size)):
            yield prompt


def together(spent: Mapping[str, Spent], digests: Iterable[str]) -> Spent:
    """What was spent on the chunks of a prompt before."""
    return sum((spent[digest] for digest in digests if digest in spent), _NOTHING)


def shares(digests: Iterable[str], prompt: Prompt, *, is_charged: bool = False) -> dict[str, Spent]:
    """What each chunk carries on: the attempts all, what they cost only the first.

    The chances of a prompt are those of its only chunk; chunks that shared one have theirs yet.

    Args:
        digests: chunks of the prompt that have no outcome.
        prompt: as it ended.
        is_charged: an outcome says already what the prompt cost.
    """
    attempts = Spent(attempts=prompt.attempts, probes=prompt.probes)
    if len(prompt.chunks) == 1:
        chances = {"was_truncated": prompt.was_truncated, "repair": prompt.repair}
        attempts = attempts.model_copy(update=chances)
    cost = attempts.model_copy(update={"calls": prompt.calls, "usage": prompt.usage})
    return {
        digest: attempts if place or is_charged else cost for place, digest in enumerate(digests)
    }
