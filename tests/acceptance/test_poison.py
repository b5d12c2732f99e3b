"""Messages that nobody can read stand in the queue of real workers."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest

from qaworker import keys
from tests.acceptance.site import Site, check_complete, check_log
from tests.support.waiting import wait_until

POOLS: dict[str, dict[str, str]] = {
    "threads": {},
    "prefork": {"QAWORKER_POOL": "prefork", "QAWORKER_PREFORK_CHILDREN": "2"},
}
QUEUE = keys.queue(keys.DEFAULT_QUEUE)
PLACES = (
    *(keys.queue(name, step) for name in keys.QUEUES for step in keys.PRIORITY_STEPS),
    keys.unacked(),
)


def poison(message: dict[str, Any]) -> list[bytes]:
    """What is made of a message that is in order."""

    def changed(part: str, **fields: object) -> bytes:
        spoilt = copy.deepcopy(message)
        spoilt[part] |= fields
        return json.dumps(spoilt).encode()

    return [
        b"{\x1b[2J",
        b"[" * 100_000,
        b"\xff\x00 no text",
        b'{"__type__": "uuid", "__value__": "zz"}',
        json.dumps(message | {"content-type": "application/x-python-serialize"}).encode(),
        json.dumps({name: part for name, part in message.items() if name != "headers"}).encode(),
        changed("headers", timelimit="zz"),
        changed("headers", id=["no", "text"]),
        changed("headers", task="os.system"),
        changed("properties", delivery_tag=True),
        json.dumps(message | {"body": base64.b64encode(b"[[], {}").decode()}).encode(),
    ]


def letters(site: Site, *arguments: str, exit_code: int = 0) -> Any:
    """What ``qaworker dead …`` prints as JSON."""
    ran = site.command("dead", *arguments, "--json")
    assert ran.wait_exit(20) == exit_code, ran.output
    return json.loads(ran.output)


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_workers_go_on_and_everything_is_kept(site: Site, pool: str) -> None:
    chunks = 100
    site.simulate()
    submitted = site.command(
        "submit", "--input-file", site.dataset(chunks), "--output", site.directory / "run"
    )
    site.finish(submitted)
    message = json.loads(site.redis.lindex(QUEUE, 0))
    poisons = poison(message)
    # Before the run, and behind it; one in a list of another priority.
    site.redis.rpush(QUEUE, *poisons[:6])
    site.redis.lpush(QUEUE, *poisons[6:-1])
    site.redis.lpush(keys.queue("low_priority", 9), poisons[-1])

    worker = site.worker(1, **POOLS[pool])
    collected = site.command("collect", site.directory / "run")
    assert collected.wait_exit(60) == 0, collected.output
    check_complete(site, "run", chunks)
    wait_until(lambda: site.redis.zcard(keys.letters()) == len(poisons), 20, "all to be put aside")
    wait_until(lambda: not site.redis.exists(*PLACES), 20, "nothing to wait or be held")
    worker.check_alive()
    check_log(worker, "message_unreadable")
    assert "Station" not in worker.output

    listed = letters(site, "list")
    assert {letter["reason"] for letter in listed} == {"unreadable"}
    assert [letter["queue"] for letter in listed].count("low_priority") == 1
    shown = letters(site, "show")
    assert {base64.b64decode(letter["raw"]) for letter in shown} == set(poisons)
    assert len(shown) == len(poisons)

    for_people = site.command("dead", "show")
    assert for_people.wait_exit(20) == 0
    assert "\x1b" not in for_people.output
    assert r"begins: {\x1b[2J" in for_people.output

    assert letters(site, "requeue", "--yes", exit_code=1) == {
        "sent": 0,
        "unsent": 0,
        "refused": {"unreadable": len(poisons)},
    }
    assert len(letters(site, "list")) == len(poisons)
    assert letters(site, "discard", "--yes") == {"discarded": len(poisons)}
    assert letters(site, "list") == []
