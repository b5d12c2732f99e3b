"""A run through two workers, for cases that look at what becomes of its chunks."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import harness
from benchmarks.harness import Stack
from benchmarks.report import Figure
from qaworker.errors import ExitCode
from qaworker.store import holds
from qaworker.store.holds import Hold
from tests.support.processes import Process

MOST_S = 900.0


def begin(running: Stack, chunks: int, **env: str) -> Process:
    """Start two workers with settings, and a client with so many chunks."""
    dataset = running.directory / "passages.jsonl"
    harness.write_passages(dataset, chunks, tokens=300)
    running.start_workers(2, **env)
    return running.generate(dataset)


def summary(running: Stack, run: str = "run") -> dict[str, Any]:
    """What the run's summary says."""
    text = (running.directory / run / "summary.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def without_answer(running: Stack, client: Process, chunks: int, run: str = "run") -> int:
    """How many of a run's chunks have no answer, or are not accounted for, when its client ends.

    Raises:
        SystemExit: the client did not come to an end of the run.
    """
    code = client.wait_exit(MOST_S)
    if code not in {ExitCode.OK, ExitCode.FAILED}:
        raise SystemExit(f"the client ended with {code}:\n{client.output}")
    read = summary(running, run)
    return chunks - int(read["outcomes"]["ok"] + read["outcomes"]["rejected"])


def completion(running: Stack, client: Process, chunks: int) -> list[Figure]:
    """Whether every chunk has an answer that was paid for once."""
    lost = without_answer(running, client, chunks)
    most = running.simulator.stats()["max_calls_per_chunk"]
    return [
        Figure("chunks without an answer", lost, most=0),
        Figure("most calls for a chunk", most, most=1),
    ]


def held(running: Stack) -> list[Hold]:
    """What nobody is to call now."""
    with running.redis.client() as redis:
        return holds.holds(redis)
