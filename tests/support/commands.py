"""The command as a process that ends, with nothing of the developer's environment."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import QAWORKER, child_environment

LONGEST_S = 60.0


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The one line on standard error; fails when there is another number of them."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        return lines[0]


Run = Callable[..., Ran]


def runner(directory: Path) -> Run:
    """Runs ``qaworker ARGUMENTS`` in a directory: ``run("config", OPENAI_API_KEY="…")``."""

    def run(*arguments: str | Path, **env: str) -> Ran:
        ran = subprocess.run(
            [*QAWORKER, *map(str, arguments)],
            env=child_environment(directory, COLUMNS="200", **env),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    return run
