from __future__ import annotations

import json
from typing import Any

import pytest

from qaworker.exports.summary import encode, summarize

COUNTS: dict[str, Any] = {
    "documents": 3,
    "skipped_rows": 1,
    "chunks": 10,
    "distinct": 9,
    "ok": 7,
    "rejected": 1,
    "dead": 2,
    "reasons": {"rejected": {"no_pairs": 1}, "dead": {"invalid": 2}},
    "reused": 4,
    "pairs": 20,
    "dropped": 2,
    "calls": 12,
    "usage": {"input": 900, "output": 300, "cached": 100, "reasoning": 50},
}


def test_a_summary_says_what_was_made_of_what() -> None:
    description = {
        "model": "gpt-5-mini",
        "prompt_version": "3",
        "schema_version": "1",
        "source": "神戸.csv",
        "config": {"temperature": 0.3},
    }
    assert summarize(description, COUNTS) == {
        "model": "gpt-5-mini",
        "prompt_version": "3",
        "schema_version": "1",
        "documents": 3,
        "skipped_rows": 1,
        "chunks": 10,
        "distinct_chunks": 9,
        "outcomes": {"ok": 7, "rejected": 1, "dead": 2},
        "reasons": {"rejected": {"no_pairs": 1}, "dead": {"invalid": 2}},
        "reconciles": True,
        "reused_chunks": 4,
        "pairs": 20,
        "dropped_pairs": 2,
        "calls": 12,
        "tokens": {"input": 900, "output": 300, "cached": 100, "reasoning": 50},
        "settings": {"source": "神戸.csv", "config": {"temperature": 0.3}},
    }


def test_a_run_with_chunks_left_does_not_reconcile() -> None:
    assert summarize({}, COUNTS | {"chunks": 11})["reconciles"] is False


@pytest.mark.parametrize("secret", ["sk-canary-0123456789abcdef", "https://user:canary@host/v1"])
def test_secrets_do_not_reach_the_summary(secret: str) -> None:
    description = {"model": secret, "settings": {"list": [secret], "deep": {"url": secret}}}
    assert "canary" not in encode(summarize(description, COUNTS)).decode()


def test_the_file_is_readable_json() -> None:
    content = encode({"source": "神戸.csv"}).decode()
    assert "神戸" in content
    assert json.loads(content) == {"source": "神戸.csv"}
