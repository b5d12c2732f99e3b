"""Child processes: started with an environment of their own, ended by their process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
QAWORKER = (sys.executable, "-m", "qaworker")


def child_environment(home: Path, **more: str) -> dict[str, str]:
    """What a child sees: nothing of the developer's environment but PATH."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # Any port that is free: supervisord starts an exporter beside the workers.
        "QAWORKER_EXPORTER_LISTEN": "127.0.0.1:0",
        **more,
    }


@contextlib.contextmanager
def begun(arguments: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A child whose environment can be read, which for a moment after its start is empty."""
    with subprocess.Popen(arguments, **options) as child:
        try:
            environment = Path(f"/proc/{child.pid}/environ")
            wait_until(environment.read_bytes, 10, "the child's environment")
            yield child
        finally:
            child.kill()


class Process:
    """A child in a session of its own, with its output in ``log``; a context ends its whole group."""

    def __init__(
        self, arguments: Sequence[str], *, log: Path, cwd: Path, env: Mapping[str, str]
    ) -> None:
        self._log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        self.pid = self._child.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._child.poll()

    @property
    def output(self) -> str:
        """What it wrote so far, to either stream."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Signal the process, not its group."""
        self._child.send_signal(number)

    def terminate(self) -> None:
        """Send TERM to the process."""
        self._child.terminate()

    def kill(self) -> None:
        """Send KILL to the process."""
        self._child.kill()

    def wait_exit(self, timeout_s: float) -> int:
        """Its exit code, once it ends by itself or by a signal sent before."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout_s} s:\n{self.output}") from None

    def check_alive(self) -> None:
        """Fail with its output when it has ended."""
        assert self.exit_code is None, f"exited with {self.exit_code}:\n{self.output}"

    def wait_ready(self, path: Path, timeout_s: float, what: str) -> None:
        """Wait for a file that the process makes when it is ready."""

        def is_there() -> bool:
            self.check_alive()
            return path.exists()

        wait_until(is_there, timeout_s, what)

    def end(self) -> None:
        """Kill what is left of the process group and reap the child."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()
