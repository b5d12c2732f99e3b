"""What a stop must not do, for every owner and pool: scenarios that its tests share."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
from typing import Protocol

from qaworker import keys
from qaworker.store.packing import unpack_chunk
from tests.acceptance.site import Site, check_complete
from tests.support.waiting import wait_until

CHUNKS = 72
POOLS = {
    "threads": {"QAWORKER_CALLS_IN_FLIGHT": "12", "QAWORKER_THREADS": "2"},
    "prefork": {
        "QAWORKER_POOL": "prefork",
        "QAWORKER_PREFORK_CHILDREN": "2",
        "QAWORKER_CALLS_IN_FLIGHT": "4",
    },
}
# Where kombu keeps the messages that a worker holds.
UNACKED = f"{keys.PREFIX}unacked"
FINISH_S = 60.0


class Workers(Protocol):
    """Worker processes under some owner."""

    def start(self, workers: int) -> None:
        """Let so many run; they consume when this returns."""

    def stop(self, timeout_s: float) -> None:
        """Stop all as an operator does, by force after that time; none is left when this returns."""

    def kill(self, number: int) -> None:
        """End the main process of one with KILL."""


def stop_mid_flight(site: Site, workers: Workers) -> None:
    """Calls on the wire are finished, the rest is back in the queue, and nobody is called twice."""
    site.simulate("--latency", "1")
    workers.start(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_calls(CHUNKS // 4)
    # However slow the machine is, the stop comes before all have been called.
    site.api.set_latency(5)
    workers.stop(60)
    site.api.set_latency(1)
    stats = site.api.stats()
    assert stats["abandoned"] == 0
    assert stats["calls"] < CHUNKS
    check_all_back(site, "run")

    workers.start(1)
    assert client.wait_exit(FINISH_S) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", CHUNKS)


def stop_out_of_time(site: Site, workers: Workers) -> None:
    """Calls take longer than anybody wants to wait: QUIT cancels them, and all is back at once."""
    site.simulate("--latency", "100")
    workers.start(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_in_flight(4)
    workers.stop(1)
    check_all_back(site, "run")
    assert not site.redis.keys(keys.claim("*"))

    site.api.set_latency(0.1)
    workers.start(1)
    assert client.wait_exit(FINISH_S) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] <= 2
    check_complete(site, "run", CHUNKS)


def kill_main(site: Site, workers: Workers) -> None:
    """What a killed worker held is done by another within a minute."""
    site.simulate("--latency", "2")
    workers.start(2)
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    site.wait_stored(CHUNKS // 4)
    workers.kill(1)
    assert client.wait_exit(60) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] <= 2
    check_complete(site, "run", CHUNKS)


def check_all_back(site: Site, run: str) -> None:
    """Every chunk without an outcome is in a queue, while no worker runs; nothing is held."""
    assert site.redis.hlen(UNACKED) == 0

    def missing() -> set[str]:
        return _unsettled(site, run) - _queued(site)

    # The client may just be reading the last outcomes. What got lost it sends again after a minute.
    wait_until(lambda: not missing(), 15, "chunks without an outcome to be in a queue")


def _unsettled(site: Site, run: str) -> set[str]:
    address = f"file:{site.directory / run / 'run.sqlite'}?mode=ro"
    query = (
        "SELECT body FROM chunk JOIN digest ON digest.seq = chunk.first"
        " WHERE state IN ('waiting', 'sent')"
    )
    with contextlib.closing(sqlite3.connect(address, uri=True)) as ledger:
        return {unpack_chunk(body).chunk_id for (body,) in ledger.execute(query)}


def _queued(site: Site) -> set[str]:
    found = set()
    for name in keys.QUEUES:
        for message in site.redis.lrange(keys.queue(name), 0, -1):
            arguments, *_ = json.loads(base64.b64decode(json.loads(message)["body"]))
            found |= {chunk["chunk_id"] for chunk in arguments[0]}
    return found
