"""Ctrl-C at a worker is a stop in order."""

from __future__ import annotations

import signal

import pytest

from tests.acceptance.site import Site, check_log


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_an_interrupted_worker_ends_in_order(site: Site, pool: str) -> None:
    site.simulate()
    worker = site.worker(QAWORKER_POOL=pool)
    worker.signal(signal.SIGINT)
    assert worker.wait_exit(20) == 0
    check_log(worker)
