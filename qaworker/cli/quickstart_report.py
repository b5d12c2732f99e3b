"""What ``qaworker quickstart`` says: who will answer, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qaworker.settings import Settings


def announce(console: Console, values: Settings, calls: int, *, is_simulated: bool) -> None:
    """Say who answers, and how many calls that is."""
    if is_simulated:
        console.print(
            "OPENAI_API_KEY is not set, so the answers are simulated: questions and answers are"
            " formed from the text by rule, without a language model, and cost nothing."
        )
    else:
        console.print(
            f"{escape(values.openai_base_url)} answers with {escape(values.model)}: it will get"
            f" {calls} calls, and a few more where one has to be repeated."
        )


def table(console: Console, summaries: Mapping[str, tuple[dict[str, Any], float]]) -> None:
    """Print what came of the runs, each with its seconds, and their sum."""
    rows: dict[str, tuple[Any, ...]] = {
        name: (
            summary["documents"],
            summary["chunks"],
            summary["pairs"],
            summary["tokens"]["input"],
            summary["tokens"]["output"],
            seconds,
        )
        for name, (summary, seconds) in summaries.items()
    }
    rows["both"] = tuple(map(sum, zip(*rows.values(), strict=True)))
    headings = ("", "documents", "chunks", "pairs", "tokens", "seconds")
    result = Table(*headings, box=None, pad_edge=False)
    for name, (documents, chunks, pairs, tokens_in, tokens_out, seconds) in rows.items():
        result.add_row(
            name,
            str(documents),
            str(chunks),
            str(pairs),
            f"{tokens_in} in, {tokens_out} out",
            f"{seconds:.1f}",
        )
    console.print()
    console.print(result)


def pairs(console: Console, path: Path, amount: int) -> None:
    """Print some of the pairs of a run, from all over it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines[:: max(1, len(lines) // amount)][:amount]:
        pair = json.loads(line)
        console.print(f"\nQ  {escape(pair['question'])}\nA  {escape(pair['answer'])}")
