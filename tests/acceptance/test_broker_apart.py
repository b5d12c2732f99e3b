"""The queue in a Redis of its own, by the variables that Celery reads too."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.acceptance.site import Site, check_complete, check_log
from tests.support.redis_server import RedisServer

CHUNKS = 20


@pytest.mark.slow
def test_a_run_with_the_queue_in_a_redis_of_its_own(
    site: Site, start_redis: Callable[..., RedisServer]
) -> None:
    queue = {"CELERY_BROKER_URL": start_redis().url, "CELERY_RESULT_BACKEND": "redis://nowhere"}
    site.simulate()
    worker = site.worker(**queue)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery", **queue)
    assert client.wait_exit(60) == 0, client.output
    check_complete(site, "run", CHUNKS)
    check_log(worker)
