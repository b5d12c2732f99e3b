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
    ("benchmark", "measured"),
    [
        ("chunking", "chunks/s"),
        ("counting", "counting costs"),
        # The cases that run through all of its code; what is exact is wanted at any size.
        ("limits rpm", "| share of the limit |"),
        ("limits known budget", "| runs held |"),
        ("limits redis quota", "| calls refused, of as many in flight |"),
        ("limits faults", "| chunks that must die |"),
        ("scrape", "times faster"),
        ("slots", "the design it grew out of: "),
        ("start", "qaworker --help, s"),
        ("stream", "client's peak MiB"),
    ],
)
def test_a_benchmark_runs(benchmark: str, measured: str, tmp_path: Path) -> None:
    name, *cases = benchmark.split()
    process = Process(
        [sys.executable, "-m", f"benchmarks.{name}", *cases, "--scale", "0.05"],
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
