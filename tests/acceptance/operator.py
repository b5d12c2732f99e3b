"""start_celery.sh as an operator runs it, for an installation in a directory of the test's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from qaworker.owners.processes import Process, marked
from qaworker.store import heartbeats
from tests.acceptance.site import Site
from tests.support.commands import Ran
from tests.support.processes import Process as Child
from tests.support.processes import child_environment
from tests.support.waiting import wait_until

LONGEST_S = 120.0
COMMAND = (sys.executable, "-m", "qaworker.cli.service")


class Operator:
    """Somebody with a terminal, on a host of its own as far as processes are concerned."""

    def __init__(self, directory: Path, site: Site, **env: str) -> None:
        self.runtime_dir = directory / "run"
        self.log_dir = directory / "log"
        self._directory = directory
        self._site = site
        settings = {
            "REDIS_URL": site.redis_url,
            "OPENAI_BASE_URL": site.api.base_url,
            "OPENAI_API_KEY": site.api_key,
            "QAWORKER_RUNTIME_DIR": str(self.runtime_dir),
            "QAWORKER_LOG_DIR": str(self.log_dir),
        }
        self._env = child_environment(directory, COLUMNS="200", **settings | env)

    def run(self, *arguments: str, **env: str) -> Ran:
        """``start_celery.sh ARGUMENTS``, once it has ended."""
        return self.type(*COMMAND, *arguments, **env)

    def type(self, *command: str, **env: str) -> Ran:
        """Any command, once it has ended."""
        # Workers that it starts inherit nothing that this would wait for: they outlive it.
        ran = subprocess.run(
            command,
            env=self._env | env,
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def do(self, *arguments: str, **env: str) -> str:
        """What it says, when all went well."""
        ran = self.run(*arguments, **env)
        assert ran.code == 0, (arguments, ran, self.log)
        return ran.out

    def begin(self, *arguments: str, **env: str) -> Child:
        """``start_celery.sh ARGUMENTS``, under way."""
        log = self._directory / f"terminal-{len(list(self._directory.glob('terminal-*')))}"
        return Child([*COMMAND, *arguments], log=log, cwd=self._directory, env=self._env | env)

    @property
    def log(self) -> str:
        """What all workers wrote."""
        return "\n".join(
            path.read_text(encoding="utf-8") for path in sorted(self.log_dir.glob("*.log"))
        )

    def processes(self) -> list[Process]:
        """Everything that runs of the installation."""
        return marked(self.runtime_dir.resolve())

    def pids(self) -> dict[int, int]:
        """Number -> process id of its workers whose heart beats."""
        ours = {process.pid for process in self.processes()}
        living = heartbeats.living(self._site.redis)
        return {beat.number: beat.pid for beat in living if beat.pid in ours}

    def kill(self, number: int) -> None:
        """End a worker's main process as the kernel does that is out of memory."""
        os.kill(self.pids()[number], signal.SIGKILL)

    def wait_gone(self, pid: int) -> None:
        """Wait until a process has ended."""
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20, f"the end of process {pid}")

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        self.do("stop", "--force")
        assert not self.processes()
