"""An installation of the test's own: a Redis, the simulated API, workers and commands."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from redis import Redis

from qaworker import keys
from tests.support.processes import QAWORKER, Process, child_environment
from tests.support.simulators import SimulatorProcess
from tests.support.waiting import wait_until
from tests.support.workers import WorkerProcess

EXPORTS = ("qa_pairs.jsonl", "qa_pairs.csv", "qa_pairs.parquet", "summary.json")


def station(number: int) -> str:
    """A short text of its own for each number, English and Japanese in turn."""
    if number % 2:
        return (
            f"第{number}駅は{1900 + number}年に開業した。"
            f"夜行列車が停まるため、ホームには{number + 20}基の街灯が並ぶ。"
        )
    return (
        f"Station {number} opened in {1900 + number}."
        f" Its platform carries {number + 20} lamps, because the night trains stop there."
    )


class Site:
    """Everything it starts runs under ``directory`` and ends with ``stack``."""

    def __init__(self, directory: Path, redis_url: str, stack: contextlib.ExitStack) -> None:
        self.directory = directory
        self.redis_url = redis_url
        self.api_key = "test-key"
        self.processes: list[Process] = []
        self._stack = stack
        self._api: SimulatorProcess | None = None
        self.redis: Any = stack.enter_context(Redis.from_url(redis_url))

    @property
    def api(self) -> SimulatorProcess:
        """The simulator that :meth:`simulate` started last."""
        assert self._api
        return self._api

    def simulate(self, *options: str) -> SimulatorProcess:
        """Start the simulated API that workers and commands started from now on call."""
        directory = self._new("simulator")
        directory.mkdir()
        self._api = self._stack.enter_context(SimulatorProcess(*options, directory=directory))
        return self._api

    def dataset(self, documents: int, *, first: int = 0) -> Path:
        """Write a dataset of so many documents, each one chunk."""
        path = self._new("dataset").with_suffix(".jsonl")
        with path.open("w", encoding="utf-8") as file:
            for number in range(first, first + documents):
                document = {"id": f"doc-{number}", "text": station(number)}
                file.write(json.dumps(document, ensure_ascii=False) + "\n")
        return path

    def worker(self, number: int = 1, /, **env: str) -> WorkerProcess:
        """Start a worker process; it is ready when this returns."""
        directory = self._new("worker")
        directory.mkdir()
        process = WorkerProcess(
            number,
            redis_url=self.redis_url,
            directory=directory,
            env=self._settings(**env),
        )
        self.processes.append(process)
        return self._stack.enter_context(process)

    def command(self, *arguments: str | Path, **env: str) -> Process:
        """Start a command of qaworker."""
        return self.run([*QAWORKER, *map(str, arguments)], **env)

    def run(self, arguments: list[str], /, **env: str) -> Process:
        """Start any command in the installation's environment."""
        directory = self._new("command")
        directory.mkdir()
        process = Process(
            arguments,
            log=directory / "log",
            cwd=directory,
            env=child_environment(directory, REDIS_URL=self.redis_url, **self._settings(**env)),
        )
        self.processes.append(process)
        return self._stack.enter_context(process)

    def finish(self, *commands: Process, exit_codes: tuple[int, ...] = (0,)) -> None:
        """Wait for commands that run side by side."""
        for command in commands:
            assert command.wait_exit(60) in exit_codes, command.output

    def generate(self, dataset: Path, run: str, /, *options: str, **env: str) -> Process:
        """Start ``qaworker generate`` with the run directory ``run``."""
        place = self.directory / run
        return self.command("generate", "--input-file", dataset, "--output", place, *options, **env)

    def wait_calls(self, least: int, timeout_s: float = 30) -> None:
        """Wait until so many calls were answered."""
        wait_until(lambda: self.api.stats()["calls"] >= least, timeout_s, f"{least} answers")

    def wait_stored(self, least: int, timeout_s: float = 30) -> None:
        """Wait until so many calls were answered, and no answer is on its way to Redis."""

        def all_stored() -> bool:
            stored = len(self.redis.keys(keys.outcome("*")))
            return stored >= least and stored == self.api.stats()["calls"]

        wait_until(all_stored, timeout_s, f"{least} stored answers")

    def wait_in_flight(self, least: int, timeout_s: float = 30) -> None:
        """Wait until so many calls are on the wire."""
        wait_until(lambda: self.api.stats()["in_flight"] >= least, timeout_s, f"{least} calls")

    def summary(self, run: str) -> dict[str, Any]:
        """What a run's summary says."""
        text = (self.directory / run / "summary.json").read_text(encoding="utf-8")
        summary: dict[str, Any] = json.loads(text)
        return summary

    def exports(self, run: str) -> dict[str, bytes]:
        """The content of a run's four files."""
        return {name: (self.directory / run / name).read_bytes() for name in EXPORTS}

    def status(self, *, exit_code: int) -> str:
        """The page of ``qaworker status``."""
        command = self.command("status")
        self.finish(command, exit_codes=(exit_code,))
        return command.output

    def settled(self, run: str) -> int:
        """Chunks whose outcome is in a run's ledger."""
        address = f"file:{self.directory / run / 'run.sqlite'}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as ledger:
            rows = ledger.execute(
                "SELECT count(*) FROM digest WHERE state NOT IN ('waiting', 'sent')"
            )
            return int(rows.fetchone()[0])

    def _new(self, kind: str) -> Path:
        count = len(list(self.directory.glob(f"{kind}-*")))
        return self.directory / f"{kind}-{count + 1}"

    def _settings(self, **env: str) -> dict[str, str]:
        return {
            "OPENAI_BASE_URL": self.api.base_url,
            "OPENAI_API_KEY": self.api_key,
            "QAWORKER_RUNS_DIR": str(self.directory / "runs"),
            **env,
        }


def events(process: Process) -> list[dict[str, Any]]:
    """What a worker logged: lines of JSON."""
    return [json.loads(line) for line in process.output.splitlines()]


def check_log(process: Process, *expected: str) -> None:
    """Fail on every error or traceback in a worker's log but events that begin as ``expected``."""
    problems = [
        event
        for event in events(process)
        if (event["level"] in {"error", "critical"} or "exception" in event)
        and not event["event"].startswith(expected)
    ]
    assert not problems, problems


def check_complete(site: Site, run: str, chunks: int) -> None:
    """Every chunk of the run has one outcome, an answer."""
    summary = site.summary(run)
    assert summary["chunks"] == chunks
    assert summary["outcomes"] == {"ok": chunks, "rejected": 0, "dead": 0}
    assert summary["reconciles"]
    lines = (site.directory / run / "qa_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    assert len({json.loads(line)["source_chunk_id"] for line in lines}) == chunks
