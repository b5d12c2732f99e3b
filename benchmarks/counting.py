"""Prints what counting costs: the processor time of a worker per chunk, with it and without.

Nine pairs, one after the other and each in the other order than the one before, of a run of 2,000
chunks by one worker; the median of their ratios, and the interval that holds the true median with a
probability of 0.96 (the second least and the second largest of nine). Without counting, a worker's
meter does nothing and its portions are not sent. `--scale 0.05` measures one pair, and less of it.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

from benchmarks import harness
from qaworker.__main__ import main as qaworker
from qaworker.engine.meter import Meter
from qaworker.store import counters, heartbeats
from qaworker.store.counters import Portion
from tests.support.waiting import wait_until

PAIRS = 9
CHUNKS = 2_000
TOKENS = 200
START_S = 60.0
RUN_S = 600.0
NO_LIMIT = {"QAWORKER_RPM": "0", "QAWORKER_TPM": "0"}
WORK = {True: "--worker", False: "--worker-without"}


def work(*, counts: bool) -> None:
    """Be a worker, which counts, or does not."""
    if not counts:
        for name in ("message_began", "call_began", "answered", "failed"):
            setattr(Meter, name, lambda *_, **__: None)
        # Something must answer that nothing went wrong.
        instead = {"settling": lambda one, _: one, "add_to": lambda _, pipe, __: pipe.echo("")}
        for name, method in instead.items():
            setattr(Portion, name, method)
    os.environ |= NO_LIMIT
    sys.argv[1:] = ["worker"]
    qaworker()


def chunk_ms(dataset: Path, chunks: int, *, counts: bool) -> float:
    """Milliseconds of a worker's processor time per chunk, over a run of the dataset."""
    with harness.stack("--latency", "0.5") as running, running.redis.client() as redis:
        words = [sys.executable, "-m", "benchmarks.counting", WORK[counts]]
        worker = running.start(*words, log="worker.log")
        wait_until(lambda: heartbeats.living(redis), START_S, "the worker")
        began_s = harness.cpu_s(worker.pid)
        client = running.generate(dataset)
        assert client.wait_exit(RUN_S) == 0, client.output
        taken_s = harness.cpu_s(worker.pid) - began_s
        worker.terminate()
        worker.wait_exit(START_S)
        counted = counters.counted(redis).totals[counters.CHUNKS].get(("ok",), 0)
        assert counted == (chunks if counts else 0), counted
    return taken_s / chunks * 1000


def main() -> None:
    """Print the table."""
    scale = harness.arguments(__doc__).parse_args().scale
    pairs, chunks = max(1, round(PAIRS * scale)), max(100, round(CHUNKS * scale))
    taken: dict[bool, list[float]] = {True: [], False: []}
    with harness.stack() as running:
        dataset = running.directory / "dataset.jsonl"
        harness.write_passages(dataset, chunks, tokens=TOKENS)
        for pair in range(pairs):
            for counts in (True, False) if pair % 2 else (False, True):
                taken[counts].append(chunk_ms(dataset, chunks, counts=counts))
    harness.print_machine()
    for counts, name in ((False, "without counting"), (True, "with")):
        each = " ".join(f"{one:.3f}" for one in taken[counts])
        print(f"{name:18}{statistics.median(taken[counts]):8.3f} ms a chunk   ({each})")
    extra = sorted(100 * (on / off - 1) for on, off in zip(taken[True], taken[False], strict=True))
    print(
        f"counting costs {statistics.median(extra):.1f} % of a worker's processor time"
        f" (from {extra[min(1, pairs - 1)]:.1f} to {extra[max(-2, -pairs)]:.1f}, of {pairs} pairs)"
    )


if __name__ == "__main__":
    if set(sys.argv) & set(WORK.values()):
        work(counts=WORK[True] in sys.argv)
    else:
        main()
