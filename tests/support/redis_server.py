"""A Redis of the tests' own, on a Unix socket."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from qaworker.cli.quickstart import redis_server
from tests.support.processes import Process, child_environment
from tests.support.waiting import wait_until

START_S = 15.0


class RedisServer:
    """A server without a TCP port; it can be stopped, killed and started again on its data."""

    def __init__(self, *, appendonly: bool = False) -> None:
        # Not under tmp_path: a socket's path has at most 108 characters.
        self._directory = Path(tempfile.mkdtemp(prefix="qaw-", dir="/tmp"))
        self._socket = self._directory / "redis.sock"
        self._appendonly = appendonly
        self._process: Process | None = None
        self.url = f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Of the running server."""
        return self._running().pid

    def client(self) -> Redis:
        """A new client, for the caller to close."""
        return Redis.from_url(self.url)

    def start(self) -> None:
        """Start the server and wait until it has loaded its data and answers."""
        if self._process:
            raise AssertionError("the Redis server is running already")
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "dir": str(self._directory),
            "save": "",
            "appendonly": "yes" if self._appendonly else "no",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        process = Process(
            [
                redis_server(),
                *(word for name, value in options.items() for word in (f"--{name}", value)),
            ],
            log=self._directory / "log",
            cwd=self._directory,
            env=child_environment(self._directory),
        )
        self._process = process
        with self.client() as client:

            def answers() -> bool:
                process.check_alive()
                try:
                    return bool(client.ping())
                except RedisError:
                    return False

            wait_until(answers, START_S, "Redis to answer")

    def stop(self) -> None:
        """End the server in order; what an append-only server knows is kept."""
        self._running().terminate()
        self._running().wait_exit(START_S)
        self._process = None

    def kill(self) -> None:
        """End the server as a crash does."""
        self._running().end()
        self._process = None

    def _running(self) -> Process:
        assert self._process, "the Redis server is not running"
        return self._process

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process:
            self.kill()
        shutil.rmtree(self._directory)
