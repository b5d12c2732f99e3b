"""What keeps a command from its work is one line that says what to do, and an exit code."""

from __future__ import annotations

import gzip
import os
import socket
from pathlib import Path

import pytest
from redis import Redis

from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat
from tests.support.commands import Run

KEY = "sk-canary-0123456789"
GIVEN = "data.csv"


@pytest.fixture(autouse=True)
def _dataset(tmp_path: Path) -> None:
    (tmp_path / GIVEN).write_text("text\nThe quay was paved in 1820.\n岸壁は石で舗装された。\n")


@pytest.mark.parametrize("arguments", [["worker"], ["generate", "--input-file", GIVEN]])
def test_without_a_key_for_openai(run: Run, arguments: list[str], nowhere: str) -> None:
    ran = run(*arguments, REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (78, "")
    assert ran.complaint.startswith("qaworker: OPENAI_API_KEY is not set: export it")


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker"],
        ["generate", "--input-file", GIVEN],
        ["generate", "--input-file", GIVEN, "--use-celery"],
        ["submit", "--input-file", GIVEN],
    ],
)
def test_without_redis(run: Run, arguments: list[str], nowhere: str) -> None:
    ran = run(*arguments, REDIS_URL=nowhere, OPENAI_API_KEY=KEY)
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.startswith("qaworker: Redis does not answer")
    assert ran.complaint.endswith("start it, or correct REDIS_URL")


def test_a_second_worker_of_one_name(run: Run, redis_url: str, redis_client: Redis) -> None:
    name = f"qa_worker-2@{socket.gethostname()}"
    counts = {"calls_in_flight": 0, "chunks_done": 0}
    heartbeats.beat(
        redis_client, Beat(name=name, pid=os.getpid(), pool="threads", started_at=1.0, **counts)
    )
    ran = run("worker", "-n", "2", REDIS_URL=redis_url, OPENAI_API_KEY=KEY)
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.startswith(f"qaworker: {name} runs already, as process {os.getpid()}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["worker"],
        ["generate", "--input-file", GIVEN, "--use-celery"],
        ["submit", "--input-file", GIVEN],
        ["collect", "run"],
    ],
)
def test_without_the_redis_of_the_queue(
    run: Run, arguments: list[str], redis_url: str, nowhere: str
) -> None:
    if "run" in arguments:
        assert (
            run("submit", "--input-file", GIVEN, "--output", "run", REDIS_URL=redis_url).code == 0
        )
    ran = run(*arguments, REDIS_URL=redis_url, CELERY_BROKER_URL=nowhere, OPENAI_API_KEY=KEY)
    assert (ran.code, ran.out) == (75, "")
    assert "Redis does not answer" in ran.complaint


@pytest.mark.parametrize("arguments", [["worker"], ["submit", "--input-file", GIVEN]])
def test_with_an_address_that_is_none(run: Run, arguments: list[str]) -> None:
    ran = run(*arguments, REDIS_URL="localhost:6379", OPENAI_API_KEY=KEY)
    assert ran.code == 78
    assert "REDIS_URL: must begin with redis://" in ran.complaint


UNREADABLE = {
    "missing": None,
    "empty": b"",
    "binary": b"\x00\x01\x02" * 100,
    "another encoding": "text\n灯台は完成した。\n".encode("shift_jis"),
    "no text column": b"title,words\na,b\n",
    "cut gzip": gzip.compress(b"text\n" + bytes(range(32, 127)) * 100)[:-20],
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_with_a_dataset_that_cannot_be_read(
    run: Run, redis_url: str, redis_client: Redis, tmp_path: Path, content: bytes | None
) -> None:
    name = "bad.csv.gz" if content is not None and content[:2] == b"\x1f\x8b" else "bad.csv"
    if content is not None:
        (tmp_path / name).write_bytes(content)
    ran = run("generate", "--input-file", name, REDIS_URL=redis_url, OPENAI_API_KEY=KEY)
    assert (ran.code, ran.out) == (65, "")
    assert name in ran.complaint
    assert not redis_client.keys(), "nothing was sent"


def test_with_a_preset_whose_file_is_not_there(run: Run, redis_url: str) -> None:
    ran = run("generate", "--dataset", "livedoor", REDIS_URL=redis_url, OPENAI_API_KEY=KEY)
    assert ran.code == 65
    assert "preprocessed_livedoor.csv" in ran.complaint


@pytest.mark.parametrize("directory", ["nothing", ".", "x" * 300])
def test_with_a_directory_that_is_no_run(run: Run, redis_url: str, directory: str) -> None:
    ran = run("collect", directory, REDIS_URL=redis_url)
    assert ran.code == 78
    assert "is not a run directory" in ran.complaint


def test_with_a_run_of_another_request(run: Run, redis_url: str) -> None:
    submit = ("submit", "--input-file", GIVEN, "--output", "run")
    assert run(*submit, REDIS_URL=redis_url).code == 0
    ran = run(*submit, "--model", "gpt-4o-mini", REDIS_URL=redis_url)
    assert ran.code == 78
    assert "made with model=gpt-5-mini, not gpt-4o-mini" in ran.complaint
