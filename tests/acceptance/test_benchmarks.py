"""Each benchmark runs at a twentieth of its size: for breakage, not for speed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, Process, child_environment


@pytest.mark.slow
@pytest.mark.timeout(330)
@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("chunking", "chunks/s"),
        ("slots", "the design it grew out of: "),
        ("start", "qaworker --help, s"),
        ("stream", "client's peak MiB"),
    ],
)
def test_a_benchmark_runs(name: str, measured: str, tmp_path: Path) -> None:
    process = Process(
        [sys.executable, "-m", f"benchmarks.{name}", "--scale", "0.05"],
        log=tmp_path / "log",
        cwd=ROOT,
        env=child_environment(tmp_path),
    )
    with process:
        try:
            assert process.wait_exit(240) == 0, process.output
        finally:
            if process.exit_code is None:
                # Interrupted, it ends its own children.
                process.signal(signal.SIGINT)
                process.wait_exit(60)
    assert measured in process.output
