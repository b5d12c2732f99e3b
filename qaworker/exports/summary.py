"""What ``summary.json`` says of a run: nothing that differs between two exports of the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from qaworker.logs import redact

_MADE_WITH = ("model", "prompt_version", "schema_version")


def summarize(description: Mapping[str, Any], counts: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a run.

    Args:
        description: what the run was made with; ``model``, ``prompt_version`` and
            ``schema_version`` stand on their own, the rest is ``settings``. What looks like a
            secret is replaced by ``***``.
        counts: the ledger's counts, as a mapping.
    """
    made_with = _redacted(description)
    outcomes = {kind: counts[kind] for kind in ("ok", "rejected", "dead")}
    return {
        **{name: made_with.pop(name, None) for name in _MADE_WITH},
        "documents": counts["documents"],
        "skipped_rows": counts["skipped_rows"],
        "chunks": counts["chunks"],
        "distinct_chunks": counts["distinct"],
        "outcomes": outcomes,
        "reasons": counts["reasons"],
        "reconciles": counts["chunks"] == sum(outcomes.values()),
        "reused_chunks": counts["reused"],
        "pairs": counts["pairs"],
        "dropped_pairs": counts["dropped"],
        "calls": counts["calls"],
        "tokens": counts["usage"],
        "settings": made_with,
    }


def encode(summary: Mapping[str, Any]) -> bytes:
    """The summary as a file."""
    return f"{json.dumps(summary, ensure_ascii=False, indent=2)}\n".encode()


def _redacted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _redacted(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(part) for part in value]
    return redact(value) if isinstance(value, str) else value
