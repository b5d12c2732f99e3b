"""A chunk kills every worker that asks for it."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from qaworker import keys
from qaworker.engine.suspects import MOST_DEATHS
from tests.acceptance.site import Site, events, station
from tests.support.processes import ROOT, Process
from tests.support.waiting import wait_until

CHUNKS = 60
DEADLY = station(7)
# Python runs a module of this name when it starts.
SITECUSTOMIZE = f"""
import asyncio, os, signal
from qaworker.llm.generator import Generator

answered = Generator.ask

async def ask(self, chunks, *arguments, **options):
    if any(chunk.text == {DEADLY!r} for chunk in chunks):
        await asyncio.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return await answered(self, chunks, *arguments, **options)

Generator.ask = ask
"""


def deadly(directory: Path) -> str:
    """A path for Python on which that chunk is deadly."""
    directory.mkdir()
    (directory / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    return f"{directory}:{ROOT}"


def let_time_pass(site: Site) -> None:
    """What a dead worker had is free after 40 s: make it so now."""
    if claims := site.redis.keys(keys.claim("*")):
        site.redis.delete(*claims)
    index = f"{keys.PREFIX}unacked_index"
    if held := site.redis.zrange(index, 0, -1):
        site.redis.zadd(index, dict.fromkeys(held, 0))


def one_ended(*processes: Process) -> bool:
    return any(process.exit_code is not None for process in processes)


@pytest.mark.slow
def test_it_ends_as_a_dead_letter_and_takes_no_neighbour_along(site: Site) -> None:
    path = deadly(site.directory / "deadly")
    # Longer than a worker lives with that chunk.
    site.simulate("--latency", "1")
    client = site.generate(site.dataset(CHUNKS), "run", "--use-celery")
    deaths = 0
    while client.exit_code is None:
        worker = site.worker(PYTHONPATH=path)
        wait_until(partial(one_ended, client, worker), 60, "the worker or the run to end")
        if worker.exit_code is not None:
            assert worker.exit_code == -signal.SIGKILL, worker.output
            deaths += 1
            let_time_pass(site)
    assert client.exit_code == 1, client.output
    assert deaths == MOST_DEATHS
    summary = site.summary("run")
    assert summary["outcomes"] == {"ok": CHUNKS - 1, "rejected": 0, "dead": 1}
    assert summary["reasons"]["dead"] == {"worker_died": 1}
    listed = site.command("dead", "show", "--json")
    site.finish(listed)
    [letter] = json.loads(listed.output)
    assert (letter["reason"], letter["chunk"]["text"]) == ("worker_died", DEADLY)
    assert not site.redis.keys(keys.takers("*"))
    # The last worker found out.
    seen = [one for one in events(worker) if one["event"] == "workers_died_with_chunks"]
    assert max(one["deaths"] for one in seen) == MOST_DEATHS
