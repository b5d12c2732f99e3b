"""`qaworker quickstart`, from a copy of the tree, with the real Redis, supervisord and workers."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.deploy.running import running_in
from tests.support.processes import QAWORKER, Process, child_environment
from tests.support.simulators import SimulatorProcess
from tests.support.waiting import wait_until

END_S = 100.0
Quickstart = Callable[..., Process]


@pytest.fixture
def quickstart(checkout: Path, tmp_path: Path) -> Iterator[Quickstart]:
    """Starts it: ``quickstart("--keep", OPENAI_API_KEY="…")``; whatever is left is killed."""

    def start(*options: str, **env: str) -> Process:
        environment = child_environment(tmp_path, **{"PYTHONPATH": str(checkout), **env})
        return Process(
            [*QAWORKER, "quickstart", *options],
            log=tmp_path / "output",
            cwd=tmp_path,
            env=environment,
        )

    yield start
    for directory in (checkout, tmp_path):
        for pid in running_in(directory):
            subprocess.run(["kill", "-KILL", str(pid)], check=False)


def pairs(checkout: Path, dataset: str) -> list[dict[str, str]]:
    path = checkout / "var" / "quickstart" / "1" / dataset / "qa_pairs.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_pairs_in_both_languages_and_nothing_left(checkout: Path, quickstart: Quickstart) -> None:
    before = set(checkout.rglob("*"))
    process = quickstart()
    assert process.wait_exit(END_S) == 0, process.output
    assert "simulated" in process.output
    assert process.output.count("\nQ  ") == 5
    for dataset, language in (("cc_news", "en"), ("wikipedia_ja", "ja")):
        made = pairs(checkout, dataset)
        assert {pair["language"] for pair in made} == {language}
        assert f"{dataset}/qa_pairs.jsonl" in process.output
        summary = json.loads(
            (checkout / "var" / "quickstart" / "1" / dataset / "summary.json").read_text("utf-8")
        )
        assert summary["reconciles"]
        assert summary["calls"] >= summary["distinct_chunks"]
    written = {entry.relative_to(checkout).parts[0] for entry in set(checkout.rglob("*")) - before}
    assert written == {"var"}
    assert not running_in(checkout)


@pytest.mark.slow
def test_kept_with_an_api_of_ones_own(
    checkout: Path, quickstart: Quickstart, simulator: Callable[..., SimulatorProcess]
) -> None:
    api = simulator()
    process = quickstart("--keep", OPENAI_API_KEY="test-key", OPENAI_BASE_URL=api.base_url)
    assert process.wait_exit(END_S) == 0, process.output
    assert "simulated" not in process.output
    assert f"it will get {api.stats()['calls']} calls" in process.output
    programs = running_in(checkout)
    assert len(programs) == len(["supervisord", "listener", "redis", "worker", "worker"])
    stop = process.output.rpartition("stop it with")[2]
    subprocess.run(shlex.split(stop), check=True, capture_output=True)
    wait_until(lambda: not running_in(checkout), END_S, "everything to stop")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_everything(
    checkout: Path, quickstart: Quickstart, number: signal.Signals
) -> None:
    process = quickstart()
    wait_until(lambda: "$ qaworker generate" in process.output, END_S, "the first run")
    process.signal(number)
    assert process.wait_exit(END_S) == 130
    assert not running_in(checkout)


@pytest.mark.slow
def test_a_failure_shows_the_log_and_stops_everything(
    checkout: Path, tmp_path: Path, quickstart: Quickstart
) -> None:
    broken = tmp_path / "broken" / "redis-server"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no such memory; exit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    tools = str(Path(sys.executable).parent)
    process = quickstart(PATH=f"{broken.parent}:{tools}:/usr/bin:/bin")
    assert process.wait_exit(END_S) == 1
    assert "redis ended" in process.output
    assert "no such memory" in process.output
    assert not running_in(checkout)


def test_too_long_a_path_is_said(checkout: Path, quickstart: Quickstart) -> None:
    deep = checkout.parent / ("d" * 90)
    checkout.rename(deep)
    process = quickstart(PYTHONPATH=str(deep))
    assert process.wait_exit(END_S) == 78
    assert "move it to a shorter one" in process.output
