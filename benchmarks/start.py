"""Prints how long a worker process takes from its start to its first sign of life, and `--help`.

Medians of nine, after one start that does not count. `--scale 0.05` measures once.
"""

from __future__ import annotations

import statistics
import subprocess
import time

from benchmarks import harness
from benchmarks.harness import Stack
from qaworker import keys
from tests.support.processes import QAWORKER
from tests.support.workers import WorkerProcess

REPEATS = 9


def start_to_ready_s(running: Stack) -> float:
    """Seconds from the spawn of a worker to its first heartbeat, by Redis' clock."""
    with running.redis.client() as redis:
        seconds, microseconds = redis.time()
        with WorkerProcess(
            1,
            redis_url=running.redis.url,
            directory=running.directory,
            env=running.settings(),
        ) as worker:
            beat = redis.zscore(keys.heartbeats(), worker.name)
            worker.terminate()
            worker.wait_exit(30)
    assert beat is not None, "a started worker has a heartbeat"
    return float(beat) - float(seconds) - float(microseconds) / 1e6


def help_s() -> float:
    """Seconds of ``qaworker --help``."""
    began = time.perf_counter()
    subprocess.run([*QAWORKER, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    repeats = max(1, round(REPEATS * harness.arguments(__doc__).parse_args().scale))
    with harness.stack() as running:
        ready = [start_to_ready_s(running) for _ in range(1 + repeats)][1:]
    helped = [help_s() for _ in range(1 + repeats)][1:]
    harness.print_machine()
    print(f"{'':22}  median   least  most, of {repeats}")
    for name, times in (("start to ready, s", ready), ("qaworker --help, s", helped)):
        print(f"{name:22}{statistics.median(times):8.2f}{min(times):8.2f}{max(times):8.2f}")


if __name__ == "__main__":
    main()
