"""Whether exactly those chunks are dead that must be, when calls fail in six ways: a case of `limits.py`.

The simulator's faults follow from a seed, a prompt and the attempt; so what must become of each chunk is
known without the workers, by walking the ladder of failures on the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchmarks import harness, runs
from benchmarks.report import Figure
from qaworker.llm.prompts import user_message
from qaworker.models import Chunk, Outcome
from qaworker.simulator.answers import Block, pairs_of
from qaworker.simulator.draws import Draws
from qaworker.simulator.faults import FaultRates
from qaworker.store.dead_letters import DeadLetters, Selection
from qaworker.store.ledger import Ledger

SEED: Final = 0
FAULTS: Final = {
    "429": 0.05,
    "500": 0.05,
    "timeout": 0.05,
    "truncated": 0.05,
    "malformed": 0.05,
    "refusal": 0.01,
}
CALL_TIMEOUT_S: Final = "5"
# Told to the workers alone: so many calls fail that the simulator needs no limit of its own.
RPM: Final = "18000"
REASONS: Final = {
    "500": "unavailable",
    "timeout": "unavailable",
    "truncated": "truncated",
    "malformed": "invalid",
    "refusal": "refused",
}


def faults(scale: float) -> list[Figure]:
    """Run through faults, and compare each chunk's fate with its draws."""
    chunks = max(100, int(2000 * scale))
    options = [f"--fault={kind}={share}" for kind, share in FAULTS.items()]
    with harness.stack("--latency", "0.5", "--seed", str(SEED), *options) as running:
        settings = {"QAWORKER_CALL_TIMEOUT_S": CALL_TIMEOUT_S, "QAWORKER_RPM": RPM}
        client = runs.begin(running, chunks, **settings)
        client.wait_exit(runs.MOST_S)
        with Ledger.open(running.directory / "run") as ledger:
            results = list(ledger.results())
        with running.redis.client() as redis:
            letters = {letter.digest: letter for letter in DeadLetters(redis).find(Selection())}
        exported = (running.directory / "run" / "qa_pairs.jsonl").read_text(encoding="utf-8")
        met = running.simulator.stats()["faults"]
        held = len(running.events("calls_held"))
    fates = {outcome.digest: fate(chunk) for chunk, outcome in results}
    doomed = {digest for digest, reason in fates.items() if reason}
    misjudged = [
        digest for digest in doomed & letters.keys() if letters[digest].reason != fates[digest]
    ]
    pairs = sum(len(outcome.pairs) for _, outcome in results)
    return [
        Figure("calls that met a fault", sum(met.values())),
        Figure("chunks that must die", len(doomed)),
        Figure("dead letters too many or too few", len(letters.keys() ^ doomed), most=0),
        Figure("dead letters with another reason", len(misjudged), most=0),
        Figure("chunks without exactly one outcome", abs(chunks - len(fates)), most=0),
        Figure("answers without all their pairs", _incomplete(results), most=0),
        Figure("pairs not exported", abs(pairs - len(exported.splitlines())), most=0),
        Figure("times the account was held", held),
    ]


def fate(chunk: Chunk) -> str:
    """Why a chunk must die, walking the ladder on its draws; empty when it must not."""
    draws, rates = Draws(SEED), FaultRates.of(FAULTS)
    prompt = user_message([chunk])
    left = {"unavailable": 3, "truncated": 1, "invalid": 1, "refused": 0}
    while fault := rates.pick(draws.next(prompt).fault):
        reason = REASONS.get(fault)
        if reason is None:  # it costs no attempt
            continue
        if not left[reason]:
            return reason
        left[reason] -= 1
    return ""


def _incomplete(results: Sequence[tuple[Chunk, Outcome]]) -> int:
    """Answers with fewer pairs than the simulator forms, those counted that were not acceptable."""
    count = 0
    for chunk, outcome in results:
        formed = len(pairs_of(Block("", chunk.pairs_wanted, chunk.text), SEED))
        count += outcome.kind != "dead" and len(outcome.pairs) + outcome.dropped != formed
    return count
