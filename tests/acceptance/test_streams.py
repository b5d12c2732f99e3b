"""A long dataset: memory and the queue stay small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qaworker import keys
from tests.acceptance.site import Site, check_complete, check_log

DOCUMENTS = 20_000
READY_TASKS = 64
MOST_MEMORY_MIB = 200


def peak_memory_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) / 1024 if peak else 0.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_long_stream_keeps_the_client_and_the_queue_small(site: Site) -> None:
    site.simulate()
    worker = site.worker()
    client = site.generate(
        site.dataset(DOCUMENTS), "run", "--use-celery", QAWORKER_READY_TASKS=str(READY_TASKS)
    )
    peak_mib = 0.0
    longest = 0
    while client.exit_code is None:
        peak_mib = max(peak_mib, peak_memory_mib(client.pid))
        waiting = sum(site.redis.llen(keys.queue(name)) for name in keys.QUEUES)
        longest = max(longest, waiting)
    assert client.exit_code == 0, client.output
    assert 0 < peak_mib < MOST_MEMORY_MIB
    # What a worker hands back joins the queue.
    assert 0 < longest <= READY_TASKS + 4
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", DOCUMENTS)
    check_log(worker)
