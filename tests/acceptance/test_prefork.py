"""Celery's other pool, its tasks by their names, and its own tools."""

from __future__ import annotations

import json
import sys

import pytest

from tests.acceptance.site import Site, check_complete, check_log, station

POOLS: dict[str, dict[str, str]] = {
    "threads": {},
    "prefork": {"QAWORKER_POOL": "prefork", "QAWORKER_PREFORK_CHILDREN": "2"},
}
BY_NAME = """
import json, sys
from qaworker import collect_results
from qaworker.tasks import generate_qa_for_batch_async, generate_qa_for_chunk_async
chunks = json.loads(sys.argv[1])
tasks = [
    generate_qa_for_batch_async.delay(chunks[:2], {"pairs_per_chunk": 1}, "gpt-5-mini"),
    generate_qa_for_chunk_async.delay(chunks[2]),
]
found = collect_results(tasks, timeout=30)
assert not found.pending, found.pending
print(json.dumps({"sources": [pair["source_chunk_id"] for pair in found], "failed": found.failed}))
"""


@pytest.mark.parametrize("pool", POOLS)
def test_a_run_tasks_by_name_and_inspect(site: Site, pool: str) -> None:
    site.simulate()
    worker = site.worker(3, **POOLS[pool])
    client = site.generate(site.dataset(200), "run", "--use-celery")
    assert client.wait_exit(60) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", 200)

    chunks = [{"chunk_id": f"c{n}", "text": station(n)} for n in (300, 301, 302)]
    by_name = site.run([sys.executable, "-c", BY_NAME, json.dumps(chunks)])
    inspect = [
        site.run([sys.executable, "-m", "celery", "-A", "qaworker.app", "inspect", what, "--json"])
        for what in ("ping", "active", "stats")
    ]
    site.finish(by_name, *inspect)
    found = json.loads(by_name.output.splitlines()[-1])
    assert set(found["sources"]) == {"c300", "c301", "c302"}
    assert found["failed"] == {}
    for answer in inspect:
        assert worker.name in json.loads(answer.output.splitlines()[-1])
    check_log(worker)
