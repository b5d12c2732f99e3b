"""Prints what a stream of 100,000 short documents takes: the client's memory, and the queue.

Answers come at once, so the client has to be as fast as two workers on the same machine.
`--scale 0.05` does a twentieth of the work.
"""

from __future__ import annotations

import sys
import time

from benchmarks import harness
from qaworker import keys

DOCUMENTS = 100_000
TOKENS = 40
WORKERS = 2


def main() -> None:
    """Print the table."""
    documents = int(DOCUMENTS * harness.arguments(__doc__).parse_args().scale)
    with harness.stack() as running, running.redis.client() as redis:
        dataset = running.directory / "passages.jsonl"
        harness.write_passages(dataset, documents, tokens=TOKENS)
        running.start_workers(WORKERS)
        client = running.generate(dataset)
        longest = 0
        peak_mib = 0.0
        while client.exit_code is None:
            longest = max(longest, *(redis.llen(keys.queue(name)) for name in keys.QUEUES))
            # An ended process that was not asked for its status shows no memory.
            peak_mib = max(peak_mib, harness.memory_mib(client.pid, "VmHWM"))
            time.sleep(0.1)
        if client.exit_code:
            sys.exit(f"the client ended with {client.exit_code}:\n{client.output}")
        served = running.simulator.stats()
    harness.print_machine()
    print(f"documents             {documents:,}, {served['distinct_chunks']:,} chunks")
    print(f"client's peak MiB     {peak_mib:8.0f}")
    print(f"longest queue, tasks  {longest:8}")
    print(f"chunks per second     {served['calls'] / served['window_s']:8.1f}")


if __name__ == "__main__":
    main()
