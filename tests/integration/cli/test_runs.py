"""The commands that drive a run, end to end with the simulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from qaworker.corpus.language import detect
from tests.conftest import StartWorker
from tests.support.commands import Run
from tests.support.simulators import SimulatorProcess

DOCUMENTS = {
    "en": "The signal box at Marlow was built in 1871. It controlled forty levers and two gates."
    " The last signalman, who kept bees beside the line, left in 1968.",
    "ja": "信号所は一八七一年に建てられた。四十本のてこと二つの門を動かしていた。"
    "最後の係員は線路わきで蜜蜂を飼い、一九六八年に去った。",
}
FILES = ["qa_pairs.csv", "qa_pairs.jsonl", "qa_pairs.parquet", "summary.json"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [{"text": text, "title": language} for language, text in DOCUMENTS.items()]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")
    return path


@pytest.fixture
def env(redis_url: str, simulator: Callable[..., SimulatorProcess]) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "OPENAI_BASE_URL": simulator().base_url}


def languages(directory: Path) -> list[str]:
    """Of the documents whose pairs were exported, in order and each once."""
    text = (directory / "qa_pairs.jsonl").read_text(encoding="utf-8")
    evidence = [json.loads(line)["evidence"] for line in text.splitlines()]
    return list(dict.fromkeys(detect(quote) for quote in evidence))


def test_generate_makes_pairs_in_its_own_process(
    run: Run, env: dict[str, str], dataset: Path, tmp_path: Path
) -> None:
    ran = run("generate", "--input-file", dataset, "--output", "run", "--json", **env)
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert sorted(path.name for path in (tmp_path / "run").glob("[qs]*")) == FILES
    assert json.loads((tmp_path / "run/summary.json").read_text()) == summary
    assert languages(tmp_path / "run") == ["en", "ja"]
    again = run("generate", "--input-file", dataset, "--output", "run", "--json", **env)
    assert json.loads(again.out) == summary


def test_without_json_nothing_comes_to_standard_output(
    run: Run, env: dict[str, str], dataset: Path
) -> None:
    ran = run("generate", "--input-file", dataset, "--output", "run", **env)
    assert (ran.code, ran.out) == (0, "")
    assert "wrote run/qa_pairs.jsonl" in ran.err


def test_submit_returns_and_collect_goes_on(
    run: Run, env: dict[str, str], dataset: Path, tmp_path: Path, worker: StartWorker
) -> None:
    submitted = run("submit", "--input-file", dataset, "--output", "run", **env)
    assert (submitted.code, submitted.out) == (0, "run\n")
    again = run("submit", "--input-file", dataset, "--output", "run", "--json", **env)
    assert json.loads(again.out) == {"run": "run", "sent": 0, "chunks": 2}
    early = run("collect", "run", "--timeout", "0", **env)
    assert (early.code, early.out) == (75, "")
    assert "0 of 2 chunks have an outcome: the same command goes on" in early.err
    worker(base_url=env["OPENAI_BASE_URL"])
    collected = run("collect", "run", "--json", **env)
    assert collected.code == 0, collected.err
    assert json.loads(collected.out)
    assert languages(tmp_path / "run") == ["en", "ja"]


@pytest.mark.parametrize("command", ["generate", "submit", "collect"])
def test_workers_that_call_another_api_get_nothing_of_a_run(
    run: Run, env: dict[str, str], dataset: Path, worker: StartWorker, command: str
) -> None:
    """They would send its texts where it does not say, and their answers would be taken for its own."""
    if command == "collect":
        assert run("submit", "--input-file", dataset, "--output", "run", **env).code == 0
    process = worker(base_url="http://127.0.0.1:9/v1")
    options: dict[str, list[str | Path]] = {
        "generate": ["generate", "--input-file", dataset, "--use-celery", "--output", "run"],
        "submit": ["submit", "--input-file", dataset, "--output", "run"],
        "collect": ["collect", "run"],
    }
    ran = run(*options[command], **env)
    assert ran.code == 78
    assert ran.err.splitlines()[-1] == (
        f"qaworker: {process.name} calls http://127.0.0.1:9/v1, and this run is for"
        f" {env['OPENAI_BASE_URL']}: give the command and the workers the same OPENAI_BASE_URL"
    )


def test_workers_that_are_missing_are_told(
    run: Run, env: dict[str, str], dataset: Path, worker: StartWorker
) -> None:
    worker(base_url=env["OPENAI_BASE_URL"])
    arguments = ("generate", "--input-file", dataset, "--use-celery", "--celery-workers", "2")
    ran = run(*arguments, "--output", "run", **env)
    assert ran.code == 0
    assert "1 of 2 worker processes answer" in ran.err


def test_a_run_with_dead_chunks_is_exit_1_and_exported(
    run: Run, redis_url: str, dataset: Path, simulator: Callable[..., SimulatorProcess]
) -> None:
    api = simulator("--fault", "refusal=1")
    env = {"REDIS_URL": redis_url, "OPENAI_BASE_URL": api.base_url}
    ran = run("generate", "--input-file", dataset, "--output", "run", "--json", **env)
    assert ran.code == 1
    assert json.loads(ran.out)
    assert "dead: 2 chunks (refused)" in ran.err


def test_a_broken_account_ends_the_command_in_one_line(
    run: Run, redis_url: str, dataset: Path, simulator: Callable[..., SimulatorProcess]
) -> None:
    api = simulator("--fault", "quota=1")
    env = {"REDIS_URL": redis_url, "OPENAI_BASE_URL": api.base_url}
    ran = run("generate", "--input-file", dataset, "--output", "run", **env)
    assert (ran.code, ran.out) == (69, "")
    assert ran.err.splitlines()[-1].startswith("qaworker: the API answered 429")
