"""deploy/supervisord.conf under a real supervisord that somebody started by hand."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from urllib.request import urlopen

import pytest
from redis import Redis

from qaworker.owners.supervisord import Supervisord
from qaworker.store import heartbeats
from tests.deploy.running import running_in
from tests.support.processes import ROOT, Process, child_environment
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

START_S = 60.0
# supervisord looks after its processes every second, its listener every five.
NOT_RESTARTED_S = 7.0
Supervise = Callable[..., "InForeground"]


class InForeground(Process):
    """supervisord with one worker."""

    def __init__(self, directory: Path, redis_url: str, **env: str) -> None:
        self._logs = directory / "log"
        self._logs.mkdir()
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        more = {
            "PATH": path,
            "REDIS_URL": redis_url,
            "QAWORKER_RUNTIME_DIR": str(directory),
            "QAWORKER_LOG_DIR": str(self._logs),
            "QAWORKER_WORKERS": "1",
            "QAWORKER_STOP_TIMEOUT_S": "330",
        } | env
        super().__init__(
            [
                *(sys.executable, "-m", "supervisor.supervisord", "--nodaemon"),
                *("--configuration", str(ROOT / "deploy" / "supervisord.conf")),
            ],
            log=directory / "output",
            cwd=directory,
            env=child_environment(directory, **more),
        )

    @property
    def starts(self) -> int:
        """How often the worker was started."""
        return self.output.count("spawned: 'qa_worker-1'")

    @property
    def worker_log(self) -> str:
        return (self._logs / "celery_qa_worker-1.log").read_text(encoding="utf-8")

    def is_watched(self) -> bool:
        """Whether the exporter serves what it reads."""
        log = (self._logs / "celery_qa_exporter.log").read_text(encoding="utf-8")
        (serves,) = (line for line in log.splitlines() if "exporter_serves" in line)
        url = f"http://127.0.0.1:{json.loads(serves)['port']}/readyz"
        with urlopen(url, timeout=START_S) as response:
            return bool(response.status == HTTPStatus.OK)


@pytest.fixture
def supervise(short_path: Path) -> Iterator[Supervise]:
    """Starts one; at the end it stops its worker in order."""
    with contextlib.ExitStack() as stack:
        try:
            yield lambda redis_url, **env: stack.enter_context(
                InForeground(short_path, redis_url, **env)
            )
        finally:
            for pid in running_in(short_path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not running_in(short_path), START_S, "supervisord to end")


def pid_of_worker(redis: Redis, *, other_than: int = 0) -> int:
    """The process id in the heartbeat of a worker, once there is one that is not ``other_than``."""

    def living() -> int:
        return next((beat.pid for beat in heartbeats.living(redis) if beat.pid != other_than), 0)

    return wait_until(living, START_S, "a worker's heartbeat")


def test_a_wrong_setting_is_final(supervise: Supervise, redis_url: str) -> None:
    """Without a key for OpenAI's own address a worker exits 78, once."""
    supervisord = supervise(redis_url)
    wait_until(lambda: "exit status 78" in supervisord.output, START_S, "the worker's exit")
    with pytest.raises(AssertionError, match="a second start"):
        wait_until(lambda: supervisord.starts > 1, NOT_RESTARTED_S, "a second start")
    assert "OPENAI_API_KEY is not set" in supervisord.worker_log


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ended_is_replaced(
    supervise: Supervise, redis_url: str, redis_client: Redis, number: signal.Signals
) -> None:
    """After a crash, and after exit 0, which is also what a worker does that has done its share."""
    supervise(redis_url, OPENAI_API_KEY="test-key")
    pid = pid_of_worker(redis_client)
    os.kill(pid, number)
    assert pid_of_worker(redis_client, other_than=pid)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_worker_waits_for_redis_as_long_as_it_takes(
    supervise: Supervise, start_redis: Callable[..., RedisServer]
) -> None:
    server = start_redis()
    server.stop()
    supervisord = supervise(server.url, OPENAI_API_KEY="test-key")
    # supervisord's default gives up after four starts; each waits ten seconds for Redis.
    wait_until(lambda: supervisord.starts > 4, 3 * START_S, "starts in vain")
    server.start()
    with server.client() as redis:
        assert pid_of_worker(redis)


def test_nobody_else_reaches_the_control_socket(
    supervise: Supervise, redis_url: str, short_path: Path
) -> None:
    supervise(redis_url)
    control = short_path / "supervisor.sock"
    wait_until(control.exists, START_S, "the control socket")
    assert control.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_it_can_be_scaled_and_outlives_its_workers(
    supervise: Supervise, redis_url: str, redis_client: Redis, short_path: Path
) -> None:
    """What was started together is changed one by one; whoever watches is not blind without them."""
    foreground = supervise(redis_url, OPENAI_API_KEY="test-key")
    owner = Supervisord(short_path, short_path / "log", 330)
    pid = pid_of_worker(redis_client)
    owner.start(2, None)
    assert pid_of_worker(redis_client, other_than=pid)
    assert owner.owned()[0].pid == pid
    owner.restart(1, START_S)
    assert [(one.number, one.state) for one in owner.owned()] == [(1, "running"), (2, "running")]
    assert owner.owned()[0].pid != pid
    owner.stop(START_S)
    assert owner.owned() == []
    foreground.check_alive()
    assert foreground.is_watched()
    owner.start(1, None)
    assert pid_of_worker(redis_client)
