"""A worker that is drained finishes what it holds, stays quiet, and consumes again when told."""

from __future__ import annotations

import pytest

from qaworker import keys
from tests.acceptance.site import Site, check_complete, check_log

pytestmark = pytest.mark.slow


def test_a_drained_worker_takes_nothing_until_it_resumes_crash_or_not(site: Site) -> None:
    site.simulate("--latency", "3")
    worker = site.worker()
    held = site.generate(site.dataset(40), "held", "--use-celery")
    site.wait_in_flight(40)
    drain = site.command("drain", "--worker", "qa_worker-1")
    site.finish(drain)
    assert f"{worker.name} is quiet" in drain.output
    stats = site.api.stats()
    assert (stats["calls"], stats["in_flight"]) == (40, 0)
    site.finish(held)

    worker.end()
    worker = site.worker()

    site.api.set_latency(0)
    place = site.directory / "waits"
    site.finish(
        site.command("submit", "--input-file", site.dataset(8, first=40), "--output", place)
    )
    early = site.command("collect", place, "--timeout", "3")
    assert early.wait_exit(30) == 75
    assert site.redis.llen(keys.queue(keys.DEFAULT_QUEUE)) == 1
    site.finish(site.command("drain", "--resume"))
    site.finish(site.command("collect", place))
    check_complete(site, "waits", 8)
    check_complete(site, "held", 40)
    check_log(worker)
