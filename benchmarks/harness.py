"""What the benchmarks share: a stack of their own, its processor time and memory, and its datasets.

Redis, the simulator and the workers are the ones the tests start; every child is ended by its pid.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chunking import english
from qaworker.cli.quickstart import redis_server
from qaworker.corpus.tokens import counter
from tests.support.processes import QAWORKER, Process, child_environment
from tests.support.redis_server import RedisServer
from tests.support.simulators import SimulatorProcess
from tests.support.workers import WorkerProcess

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LIBRARIES = ("celery", "kombu", "openai", "aiohttp", "redis", "pydantic")


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows ``--scale``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the work to do")
    return parser


def print_machine() -> None:
    """The line of versions that stands above every table."""
    # As in "Redis server v=7.0.15 sha=…" and "Valkey server v=9.1.0 …".
    server = subprocess.run(
        [redis_server(), "--version"], check=True, capture_output=True, text=True
    ).stdout.split(" sha=")[0]
    versions = (f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    print(
        f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release()},"
        f" Python {platform.python_version()}, {', '.join(versions)}, {server}"
    )


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and its descendants, the reaped ones included."""
    total = 0.0
    for member in _tree(pid):
        # The command's name, in parentheses, may hold spaces; utime is the 12th field after it.
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) / TICKS_PER_S
    return total


def memory_mib(pid: int, field_name: str = "VmRSS") -> float:
    """Resident MiB of a process and its descendants; with ``VmHWM`` their peaks."""
    total_kib = 0
    for member in _tree(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith(f"{field_name}:"):
                total_kib += int(line.split()[1])
    return total_kib / 1024


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _tree(int(child))


def five_minutes_ahead() -> dict[str, str]:
    """The environment of a process whose clock is wrong.

    Raises:
        SystemExit: Debian's libfaketime is not installed.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        sys.exit("libfaketime is missing: apt-get install libfaketime")
    # The monotonic clock is right on every host; changed, it makes Python's own waits hang.
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": "+5m",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@dataclass
class Stack:
    """A running service, with a directory for what the benchmark adds to it."""

    directory: Path
    redis: RedisServer
    simulator: SimulatorProcess
    workers: list[WorkerProcess] = field(default_factory=list)
    _children: ExitStack = field(default_factory=ExitStack)

    def settings(self) -> dict[str, str]:
        """What lets a child call this stack's simulator."""
        return {
            "OPENAI_BASE_URL": self.simulator.base_url,
            "OPENAI_API_KEY": "benchmark",
            # As in production, where modules are compiled once.
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def start(self, *words: str, log: str) -> Process:
        """Run a command until the stack ends; ``log`` names its output in the directory."""
        env = child_environment(self.directory, REDIS_URL=self.redis.url, **self.settings())
        process = Process(words, log=self.directory / log, cwd=self.directory, env=env)
        return self._children.enter_context(process)

    def start_workers(self, count: int, **env: str) -> None:
        """Start more worker processes, with the default settings but those in ``env``."""
        for _ in range(count):
            worker = WorkerProcess(
                len(self.workers) + 1,
                redis_url=self.redis.url,
                directory=self.directory,
                env=self.settings() | env,
            )
            self.workers.append(self._children.enter_context(worker))

    def generate(self, dataset: Path, *options: str, run: str = "run") -> Process:
        """Run ``qaworker generate`` on a dataset, through the workers."""
        return self.start(
            *QAWORKER, "generate", "--use-celery", "--json", *options,
            "--input-file", str(dataset), "--output", str(self.directory / run),
            log=f"{run}.log",
        )  # fmt: skip

    def wait_for_calls(self, client: Process, calls: int) -> None:
        """Return when the simulator has answered so many calls.

        Raises:
            SystemExit: the client ended before.
        """
        while self.simulator.stats()["calls"] < calls:
            if client.exit_code is not None:
                sys.exit(f"the client ended with {client.exit_code}:\n{client.output}")
            time.sleep(0.25)

    def events(self, name: str) -> list[dict[str, Any]]:
        """What the workers logged of this kind."""
        lines = (line for worker in self.workers for line in worker.output.splitlines())
        return [event for line in lines if (event := json.loads(line))["event"] == name]


@contextmanager
def stack(*simulator_options: str, keeps_data: bool = False) -> Iterator[Stack]:
    """A Redis, whose data may outlive a stop, and a simulator with the options given."""
    with ExitStack() as children:
        directory = Path(children.enter_context(tempfile.TemporaryDirectory(prefix="qaw-")))
        redis = children.enter_context(RedisServer(appendonly=keeps_data))
        simulator = children.enter_context(
            SimulatorProcess(*simulator_options, directory=directory)
        )
        yield Stack(directory, redis, simulator, _children=children.enter_context(ExitStack()))


def write_passages(path: Path, count: int, *, tokens: int, least: int = 0, first: int = 0) -> None:
    """A JSONL dataset of ``count`` documents, each of them one chunk of almost ``tokens`` tokens.

    Sizes vary evenly from ``least`` to ``tokens``, where that is given. The text is what the machine
    carries, over and over; a number, from ``first`` on, makes each document distinct.
    """
    tokens_of = counter("gpt-5-mini")
    whole = " ".join(" ".join(english()).split())
    lots = random.Random(tokens)  # the same dataset in every run
    at = 0

    def piece() -> str:
        nonlocal at
        wanted = lots.randint(least, tokens) if least else tokens
        while True:
            at = at % (len(whole) - wanted * 4) + wanted * 4
            text = whole[at - wanted * 4 : at].partition(" ")[2].rpartition(" ")[0]
            if wanted * 0.8 < tokens_of(text) < wanted * 0.98:
                return text

    with path.open("w", encoding="utf-8") as file:
        for number in range(first, first + count):
            row: dict[str, Any] = {"id": f"p{number}", "text": f"Passage {number}. {piece()}"}
            file.write(json.dumps(row) + "\n")
