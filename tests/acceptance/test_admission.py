"""The limit is small and the queue long: what would only wait stays in the queue."""

from __future__ import annotations

import pytest

from qaworker import keys
from qaworker.store import fleet
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

TPM = 20_000
CHUNKS = 400
TASKS = CHUNKS // 16
SLOW_LIMIT = {"QAWORKER_TPM": str(TPM), "QAWORKER_TASK_SOFT_LIMIT_S": "100"}
NO_LIMIT = {"QAWORKER_TPM": "0", "QAWORKER_RPM": "0"}
OBSERVED_S = 40.0


def ready(site: Site) -> int:
    return int(site.redis.llen(keys.queue(keys.DEFAULT_QUEUE)))


def held(site: Site) -> int:
    return int(site.redis.hlen(keys.unacked()))


@pytest.mark.slow
def test_workers_take_what_the_limit_grants_soon_and_leave_the_rest_in_the_queue(
    site: Site,
) -> None:
    site.simulate("--latency", "0.5", "--tpm", str(TPM))
    run = site.directory / "run"
    submitted = site.command("submit", "--input-file", site.dataset(CHUNKS), "--output", run)
    assert submitted.wait_exit(30) == 0, submitted.output
    assert ready(site) == TASKS
    workers = [site.worker(number, **SLOW_LIMIT) for number in (1, 2)]
    began_s = site.api.stats()["uptime_s"]
    most = 0

    def observed() -> bool:
        nonlocal most
        most = max(most, held(site))
        return bool(site.api.stats()["uptime_s"] - began_s > OBSERVED_S)

    wait_until(observed, 2 * OBSERVED_S, "the observation")
    stats = site.api.stats()
    assert stats["calls"] > 0
    # Here a call takes seconds of the limit: the first ones may come a moment early.
    assert stats["answers"].get("429", 0) <= 2
    # A task is 25 s of the limit; without the door each worker held all it could.
    assert most <= TASKS // 2
    assert ready(site) + held(site) >= TASKS - 8
    for worker in workers:
        assert '"task_handed_back"' not in worker.output

    # What is told to a worker reaches it also while it takes nothing.
    fleet.make_quiet(site.redis, [workers[0].name])
    wait_until(lambda: '"worker_is_quiet"' in workers[0].output, 20, "a quiet worker")
    for worker in workers:
        worker.terminate()
    for worker in workers:
        assert worker.wait_exit(20) == 0
        check_log(worker)
    assert held(site) == 0

    site.api.set_limits()
    # What the provider reported would be in force for another hour.
    site.redis.delete(*site.redis.keys(keys.limiter("*", "*")))
    site.worker(3, **NO_LIMIT)
    collected = site.command("collect", run)
    assert collected.wait_exit(60) == 0, collected.output
    check_complete(site, "run", CHUNKS)
    assert site.api.stats()["max_calls_per_chunk"] == 1
