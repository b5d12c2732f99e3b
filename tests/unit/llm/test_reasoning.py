from __future__ import annotations

import pytest

from qaworker.llm.reasoning import admitted_effort, is_reasoning
from qaworker.models import ReasoningEffort


@pytest.mark.parametrize(
    "model",
    ["gpt-5", "gpt-5-mini", "gpt-5.1", "o1", "o3-mini", "o4-mini-2025-04-16", "openai/gpt-5-nano",
     "ft:o4-mini:org::id"],
)  # fmt: skip
def test_reasoning_models(model: str) -> None:
    assert is_reasoning(model)


@pytest.mark.parametrize(
    "model", ["gpt-4o-mini", "gpt-4.1", "gpt-5-chat-latest", "o2", "o1x", "olmo-3", "qwen3:8b", ""]
)
def test_other_models(model: str) -> None:
    assert not is_reasoning(model)


@pytest.mark.parametrize(
    ("model", "wanted", "sent"),
    [
        ("gpt-5-mini", "minimal", "minimal"),
        ("gpt-5-mini", "none", "minimal"),
        ("gpt-5.1", "minimal", "none"),
        ("gpt-5.1", "none", "none"),
        ("o3-mini", "minimal", "low"),
        ("openai/o3", "none", "low"),
        ("o3-mini", "high", "high"),
        ("gpt-5.1", "medium", "medium"),
    ],
)
def test_the_nearest_admitted_effort_is_sent(
    model: str, wanted: ReasoningEffort, sent: ReasoningEffort
) -> None:
    assert admitted_effort(model, wanted) == sent
