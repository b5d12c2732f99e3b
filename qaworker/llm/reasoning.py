"""Which models reason before they answer, and what follows for a request."""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from qaworker.models import ReasoningEffort

# gpt-5 and the o series, also behind a router's prefix ("openai/o3") or fine-tuned ("ft:o4-mini:…").
# gpt-5-chat answers without reasoning and takes a temperature.
_REASONS = re.compile(r"(?:.*/|ft:)?(?:o[134](?![a-z0-9])|gpt-5(?!-chat))")
# They know "none" and not "minimal"; gpt-5 itself knows "minimal" and not "none".
_FROM_5_1 = re.compile(r".*gpt-5\.\d")
_O_SERIES = re.compile(r"(?:.*/|ft:)?o[134]")

REASONING_TOKENS: Final[dict[ReasoningEffort, int]] = {
    "none": 0,
    "minimal": 128,
    "low": 1024,
    "medium": 4096,
    "high": 16384,
}
"""Output tokens allowed for reasoning: they count against the cap before the answer begins."""


@cache
def is_reasoning(model: str) -> bool:
    """Whether the model takes ``reasoning_effort`` and refuses ``temperature``."""
    return _REASONS.match(model) is not None


@cache
def admitted_effort(model: str, effort: ReasoningEffort) -> ReasoningEffort:
    """The effort nearest to ``effort`` that a reasoning model admits; another is answered with 400.

    Source: the model pages of OpenAI's documentation.
    """
    if effort not in {"none", "minimal"}:
        return effort
    if _O_SERIES.match(model):
        return "low"
    return "none" if _FROM_5_1.match(model) else "minimal"
