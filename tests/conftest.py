"""Fixtures for all tests: a Redis, the API simulator, worker processes."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import structlog
from redis import Redis

from tests.support.redis_server import RedisServer
from tests.support.simulators import SimulatorProcess
from tests.support.workers import WorkerProcess

OURS = structlog.stdlib.ProcessorFormatter
IS_CI = os.environ.get("CI") == "true"
# A shell ignores SIGINT for what it starts in the background, and so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration, where every tool is installed, a skipped test is a failed one."""
    report = yield
    if IS_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longreprtext}"
    return report


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """Undo what a command that a test ran in this process made of the logging of all that follow."""
    root = logging.getLogger()
    level = root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.setLevel(level)
    for handler in [each for each in root.handlers if type(each.formatter) is OURS]:
        root.removeHandler(handler)


class StartWorker(Protocol):
    def __call__(self, number: int = 1, *, base_url: str, **env: str) -> WorkerProcess: ...


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(_redis_server: RedisServer) -> str:
    """The URL of an empty Redis."""
    with _redis_server.client() as client:
        client.flushall()
    return _redis_server.url


@pytest.fixture
def redis_client(redis_url: str) -> Iterator[Redis]:
    """A client of the empty Redis at ``redis_url``."""
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def start_redis() -> Iterator[Callable[..., RedisServer]]:
    """Starts a server of the test's own, to be stopped and killed: ``start_redis(appendonly=True)``."""
    with contextlib.ExitStack() as servers:
        yield lambda *, appendonly=False: servers.enter_context(RedisServer(appendonly=appendonly))


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Callable[..., SimulatorProcess]]:
    """Starts a simulator: ``simulator("--latency", "0.1", "--fault", "429=0.2")``."""
    with contextlib.ExitStack() as simulators:
        started = 0

        def start(*options: str) -> SimulatorProcess:
            nonlocal started
            started += 1
            directory = tmp_path / f"simulator-{started}"
            directory.mkdir()
            return simulators.enter_context(SimulatorProcess(*options, directory=directory))

        yield start


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory; not under tmp_path, as a socket's path has at most 108 characters."""
    directory = Path(tempfile.mkdtemp(prefix="qaw-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def worker(tmp_path: Path, redis_url: str) -> Iterator[StartWorker]:
    """Starts worker processes on ``redis_url``: ``worker(2, base_url=api.base_url, QAWORKER_…="…")``."""
    directory = tmp_path / "workers"
    directory.mkdir()
    with contextlib.ExitStack() as workers:

        def start(number: int = 1, *, base_url: str, **env: str) -> WorkerProcess:
            settings = {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "test-key", **env}
            return workers.enter_context(
                WorkerProcess(number, redis_url=redis_url, directory=directory, env=settings)
            )

        yield start
