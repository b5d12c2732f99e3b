"""``qaworker simulate`` as a process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.processes import QAWORKER, Process, child_environment
from tests.support.simulators import SimulatorProcess

StartSimulator = Callable[..., SimulatorProcess]


def test_says_where_it_listens_and_takes_controls(simulator: StartSimulator) -> None:
    api = simulator("--seed", "3")
    assert api.output == f"listening on {api.base_url}\n"
    api.set_faults(**{"429": 0.5, "slow": 0.1})
    api.set_limits(rpm=60)
    api.set_latency(0.5, 0.2)
    api.reset_stats()
    assert api.stats()["requests"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_and_in_order(simulator: StartSimulator, number: signal.Signals) -> None:
    api = simulator()
    api.signal(number)
    assert api.wait_exit(10) == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [(["--fault", "fire=1"], 2, "unknown fault 'fire'"), (["--fault", "429"], 2, "KIND=RATE"),
     (["--rpm", "-1"], 2, "--rpm"), (["--host", "127.0.0.1", "--port", "{taken}"], 78, "choose another --port")],
)  # fmt: skip
def test_wrong_options_end_it_with_one_line(
    simulator: StartSimulator, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    port = str(urlsplit(simulator().base_url).port)
    options = [port if option == "{taken}" else option for option in options]
    with Process(
        [*QAWORKER, "simulate", *options],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=child_environment(tmp_path),
    ) as process:
        assert process.wait_exit(20) == code
        assert message in process.output
        assert "Traceback" not in process.output


def test_help_says_that_it_is_no_language_model(tmp_path: Path) -> None:
    with Process(
        [*QAWORKER, "simulate", "--help"],
        log=tmp_path / "log",
        cwd=tmp_path,
        env=child_environment(tmp_path),
    ) as process:
        assert process.wait_exit(20) == 0
        assert "no language model" in " ".join(process.output.split())
