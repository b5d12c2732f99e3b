"""Worker processes."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

from redis import Redis

from qaworker import keys
from tests.support.processes import QAWORKER, Process, child_environment
from tests.support.waiting import wait_until

START_S = 30.0


class WorkerProcess(Process):
    """``qaworker worker -n NUMBER``, ready (its heart beats) when constructed."""

    def __init__(
        self, number: int, *, redis_url: str, directory: Path, env: Mapping[str, str]
    ) -> None:
        self.name = f"qa_worker-{number}@{socket.gethostname()}"
        with Redis.from_url(redis_url) as redis:
            seconds, microseconds = redis.time()
            started = seconds + microseconds / 1e6
            super().__init__(
                [*QAWORKER, "worker", "-n", str(number)],
                log=directory / f"worker-{number}.log",
                cwd=directory,
                env=child_environment(directory, REDIS_URL=redis_url, **env),
            )

            def beats() -> bool:
                self.check_alive()
                beat = redis.zscore(keys.heartbeats(), self.name)
                # A worker of this name may have beaten before.
                return beat is not None and beat >= started

            try:
                wait_until(beats, START_S, f"the heartbeat of {self.name}")
            except BaseException as error:
                self.end()
                error.add_note(self.output)
                raise
