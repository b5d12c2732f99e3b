"""The queues and their order."""

from __future__ import annotations

import json
import re

from qaworker import keys
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

ONE_TASK_AT_A_TIME = {"QAWORKER_THREADS": "1", "QAWORKER_CALLS_IN_FLIGHT": "4"}


def submit(site: Site, priority: str | None, documents: int, first: int) -> None:
    options = ("--priority", priority) if priority else ()
    command = site.command(
        "submit",
        *("--input-file", site.dataset(documents, first=first)),
        *("--output", site.directory / f"run-{priority}"),
        *options,
    )
    assert command.wait_exit(30) == 0, command.output


def test_ten_chunks_of_high_priority_overtake_a_thousand_of_low(site: Site) -> None:
    site.simulate("--latency", "0.2")
    submit(site, "low", 1000, 0)
    worker = site.worker(**ONE_TASK_AT_A_TIME)
    site.wait_calls(10)
    high = site.generate(site.dataset(10, first=5000), "high", "--use-celery", "--priority", "high")
    assert high.wait_exit(30) == 0, high.output
    check_complete(site, "high", 10)
    assert site.redis.llen(keys.queue("low_priority")) > 1000 // 16 // 2
    assert site.api.stats()["calls"] < 500
    check_log(worker)


def test_workers_take_the_queues_in_their_order(site: Site) -> None:
    site.simulate()
    queue_of: dict[str, str] = {}
    queues = {
        "low": "low_priority",
        "normal": "normal_priority",
        None: "qa_generation",
        "high": "high_priority",
    }
    for step, (priority, queue) in enumerate(queues.items()):
        submit(site, priority, 48, first=step * 100)
        for message in site.redis.lrange(keys.queue(queue), 0, -1):
            queue_of[json.loads(message)["headers"]["id"]] = queue
    assert len(queue_of) == 12

    worker = site.worker(**ONE_TASK_AT_A_TIME)

    def received() -> list[str]:
        return [queue_of[id_] for id_ in re.findall(r"\[([0-9a-f-]{36})\] received", worker.output)]

    wait_until(lambda: len(received()) == 12, 30, "all tasks to be received")
    assert received() == [queue for queue in reversed(queues.values()) for _ in range(3)]
