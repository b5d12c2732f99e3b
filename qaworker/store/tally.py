"""What a run amounts to so far: sums kept with every outcome, so that asking costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from qaworker.models import Outcome, Usage

Sums = Counter[tuple[str, str, str]]
"""By kind and reason of the outcomes, and the name of what is summed."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Counted in chunks unless it says otherwise.

    A text that occurs twice in a run is answered once, and counts twice with its pairs.
    """

    documents: int
    skipped_rows: int
    chunks: int
    distinct: int
    """Digests: what is sent at most."""
    ok: int
    rejected: int
    dead: int
    reasons: Mapping[str, Mapping[str, int]]
    """Why chunks are rejected or dead, by that kind."""
    reused: int
    """Answered from what another run paid for."""
    pairs: int
    dropped: int
    """Pairs that were not acceptable."""
    calls: int
    """Paid for by this run, like ``usage``."""
    usage: Usage

    @property
    def settled(self) -> int:
        """Chunks that have an outcome."""
        return self.ok + self.rejected + self.dead


def results(outcome: Outcome, chunks: int, run_id: str) -> Sums:
    """What an outcome that settles ``chunks`` chunks adds to the results."""
    amounts = {
        "chunks": chunks,
        "reused": 0 if outcome.run_id == run_id else chunks,
        "pairs": chunks * len(outcome.pairs),
        "dropped": chunks * outcome.dropped,
    }
    return _sums(outcome, amounts)


def costs(outcome: Outcome, run_id: str) -> Sums:
    """What an outcome adds to the costs of a run: nothing when another run paid."""
    if outcome.run_id != run_id:
        return Sums()
    return _sums(outcome, {"calls": outcome.calls, **outcome.usage.model_dump()})


def _sums(outcome: Outcome, amounts: Mapping[str, int]) -> Sums:
    return Sums({(outcome.kind, outcome.reason, name): n for name, n in amounts.items() if n})


def counts(totals: Mapping[str, int], tally: Iterable[tuple[str, str, str, int]]) -> Counts:
    """The counts of a run.

    Args:
        totals: ``documents``, ``skipped_rows``, ``chunks`` and ``distinct``, as far as known.
        tally: ``(kind, reason, name, value)``.
    """
    sums: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    reasons: dict[str, dict[str, int]] = {"rejected": {}, "dead": {}}
    for kind, reason, name, value in tally:
        sums[name] += value
        if name == "chunks":
            kinds[kind] += value
            if kind in reasons and value:
                reasons[kind][reason] = value
    return Counts(
        documents=totals.get("documents", 0),
        skipped_rows=totals.get("skipped_rows", 0),
        chunks=totals.get("chunks", 0),
        distinct=totals.get("distinct", 0),
        ok=kinds["ok"],
        rejected=kinds["rejected"],
        dead=kinds["dead"],
        reasons=reasons,
        reused=sums["reused"],
        pairs=sums["pairs"],
        dropped=sums["dropped"],
        calls=sums["calls"],
        usage=Usage(**{name: sums[name] for name in Usage.model_fields}),
    )
