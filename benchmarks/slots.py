"""Prints how full two workers keep their slots, and what a call costs them.

30,000 chunks of about 300 tokens, answered after 4 s, no limits; everything runs on this machine.
What counts is the middle 60 % of the calls. Beside it, the design qaworker grew out of (see
``grown_from.py``) works for 60 s at the same server. `--scale 0.05` does a twentieth of the work.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Self

from benchmarks import harness
from benchmarks.harness import Stack, cpu_s
from qaworker.app import broker_url
from qaworker.llm.request import request_body
from qaworker.models import Chunk, GenerationConfig
from tests.support.processes import Process

CHUNKS = 30_000
WORKERS = 2
SLOTS = 512 * WORKERS
CHILDREN = 8
GROWN_FROM_S = 60.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Counters of a stack at one time; ``later - earlier`` is what happened in between."""

    clock_s: float
    calls: int
    in_flight_s: float
    cpu_s: dict[str, float]

    @classmethod
    def of(cls, running: Stack, client: Process) -> Self:
        """Now."""
        served = running.simulator.stats()
        return cls(
            clock_s=served["window_s"],
            calls=served["calls"],
            in_flight_s=served["in_flight_seconds"],
            cpu_s={
                "workers": sum(cpu_s(worker.pid) for worker in running.workers),
                "client": cpu_s(client.pid),
                "simulator": cpu_s(running.simulator.pid),
                "Redis": cpu_s(running.redis.pid),
            },
        )

    def __sub__(self, earlier: Self) -> Moment:
        return Moment(
            self.clock_s - earlier.clock_s,
            self.calls - earlier.calls,
            self.in_flight_s - earlier.in_flight_s,
            {name: seconds - earlier.cpu_s[name] for name, seconds in self.cpu_s.items()},
        )


def measure(running: Stack, chunks: int) -> tuple[Moment, str]:
    """What happened in the middle 60 % of the calls, and a line on memory."""
    dataset = running.directory / "passages.jsonl"
    harness.write_passages(dataset, chunks, tokens=300)
    running.start_workers(WORKERS)
    client = running.generate(dataset)
    running.wait_for_calls(client, int(chunks * 0.2))
    begin = Moment.of(running, client)
    running.wait_for_calls(client, int(chunks * 0.8))
    end = Moment.of(running, client)
    workers = " + ".join(f"{harness.memory_mib(w.pid):.0f}" for w in running.workers)
    memory = f"resident MiB: workers {workers}, client {harness.memory_mib(client.pid):.0f}"
    if code := client.wait_exit(600):
        sys.exit(f"the client ended with {code}:\n{client.output}")
    served = running.simulator.stats()
    if served["distinct_chunks"] != chunks or served["max_calls_per_chunk"] != 1:
        sys.exit(f"not one call for each of {chunks} chunks: {served}")
    return end - begin, memory


def measure_grown_from(running: Stack, seconds: float) -> float:
    """Calls per second of the design qaworker grew out of."""
    from celery import Celery

    celery = Celery(broker=broker_url(running.redis.url))
    config = GenerationConfig()
    for number in range(int(seconds) * CHILDREN):
        text = f"Passage {number}. The quick brown fox jumps over the lazy dog. " * 20
        chunk = Chunk(chunk_id=str(number), text=text, language="en", pairs_wanted=3)
        celery.send_task("generate", args=(request_body([chunk], config, "gpt-5-mini"),))
    worker = running.start(
        sys.executable, "-m", "celery", "-A", "benchmarks.grown_from",
        "worker", "--pool", "prefork", "--concurrency", str(CHILDREN),
        log="grown_from.log",
    )  # fmt: skip
    while (begin := running.simulator.stats())["calls"] < CHILDREN:
        worker.check_alive()
        time.sleep(0.25)
    time.sleep(seconds)
    end = running.simulator.stats()
    return float(end["calls"] - begin["calls"]) / float(end["window_s"] - begin["window_s"])


def main() -> None:
    """Print the table."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--latency", type=float, default=4.0, help="mean seconds of an answer")
    parser.add_argument("--sigma", type=float, default=0.0, help="its log-normal spread")
    options = parser.parse_args()
    latency = ("--latency", str(options.latency), "--sigma", str(options.sigma))
    chunks = int(CHUNKS * options.scale)
    with harness.stack(*latency) as running:
        middle, memory = measure(running, chunks)
    with harness.stack(*latency) as running:
        # Less than two answers of each child would say nothing.
        seconds = max(2.5 * options.latency, GROWN_FROM_S * options.scale)
        before = measure_grown_from(running, seconds)
    busy = middle.in_flight_s / middle.clock_s / SLOTS
    rate = middle.calls / middle.clock_s
    harness.print_machine()
    print(f"{chunks:,} chunks, answers after {options.latency:g} s (sigma {options.sigma:g})")
    print(f"slots busy            {busy:8.1%}  of {SLOTS}, over {middle.clock_s:.0f} s")
    print(f"calls per second      {rate:8.1f}")
    for name, cpu in middle.cpu_s.items():
        print(f"CPU ms a call {name:10}{cpu / middle.calls * 1000:6.2f}")
    print(memory)
    print(f"the design it grew out of: {before:.2f} calls per second, 1/{rate / before:.0f}")


if __name__ == "__main__":
    main()
