"""What ``qaworker cancel`` asks and refuses; what it removes stands in test_cancelling.py."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qaworker import keys
from qaworker.store.holds import set_hold
from tests.support.commands import LONGEST_S, Run
from tests.support.processes import QAWORKER, child_environment

QUEUE = keys.queue(keys.DEFAULT_QUEUE)


@pytest.fixture
def submitted(run: Run, redis_url: str, tmp_path: Path) -> str:
    """The directory of a run of one message."""
    (tmp_path / "data.csv").write_text(
        "text\nThe kiln was lit twice a year.\n窯は年に二度焚かれた。\n"
    )
    ran = run("submit", "--input-file", "data.csv", "--output", "run", REDIS_URL=redis_url)
    assert ran.code == 0, ran.err
    return "run"


@pytest.mark.parametrize("answer", ["n", "y"])
def test_a_person_is_asked(
    submitted: str, redis_url: str, redis_client: Any, tmp_path: Path, answer: str
) -> None:
    keyboard, terminal = pty.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as keys_of, os.fdopen(terminal, "rb") as stdin:
        keys_of.write(f"{answer}\n".encode())
        ran = subprocess.run(
            [*QAWORKER, "cancel", submitted],
            env=child_environment(tmp_path, REDIS_URL=redis_url, COLUMNS="200"),
            cwd=tmp_path,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    assert "in all, messages: 1 (chunks: 2, runs: 1)" in ran.stderr
    is_removed = answer == "y"
    assert ran.returncode == (0 if is_removed else 130), ran.stderr
    assert redis_client.llen(QUEUE) == (0 if is_removed else 1)
    assert ("nothing was removed" in ran.stderr) != is_removed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either RUN_DIR or --all"),
        (["run", "--all", "--yes"], "give either RUN_DIR or --all"),
        (["run"], "there is no terminal to ask at: give --yes"),
        (["--all"], "there is no terminal to ask at: give --yes"),
        (["--all", "--dry-run", "--yes"], "give either --dry-run or --yes"),
    ],
)
@pytest.mark.usefixtures("submitted")
def test_what_is_not_clear_removes_nothing(
    run: Run, redis_url: str, redis_client: Any, arguments: list[str], message: str
) -> None:
    ran = run("cancel", *arguments, REDIS_URL=redis_url)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert redis_client.llen(QUEUE) == 1


@pytest.mark.parametrize("which", ["run", "--all"])
@pytest.mark.usefixtures("submitted")
def test_a_dry_run_lists_and_removes_nothing(
    run: Run, redis_url: str, redis_client: Any, which: str
) -> None:
    ran = run("cancel", which, "--dry-run", REDIS_URL=redis_url)
    assert (ran.code, ran.out) == (0, "")
    assert "in all, messages: 1 (chunks: 2, runs: 1)" in ran.err
    assert "nothing was removed" not in ran.err
    assert redis_client.llen(QUEUE) == 1


def test_a_run_is_cancelled_by_its_id(
    submitted: str, run: Run, redis_url: str, redis_client: Any
) -> None:
    other = "0" * 32
    assert run("cancel", other, "--yes", REDIS_URL=redis_url).code == 0
    assert redis_client.llen(QUEUE) == 1
    shown = run("cancel", submitted, "--dry-run", REDIS_URL=redis_url).err
    run_id = shown.partition("run ")[2].partition(":")[0]
    assert run("cancel", run_id, "--yes", REDIS_URL=redis_url).code == 0
    assert redis_client.llen(QUEUE) == 0


def test_what_is_neither_a_run_directory_nor_an_id_is_refused(run: Run, redis_url: str) -> None:
    ran = run("cancel", "rum", "--yes", REDIS_URL=redis_url)
    assert (ran.code, ran.out) == (78, "")
    assert "rum" in ran.complaint


def test_a_script_is_told_in_a_line_to_say_yes(submitted: str, run: Run, redis_url: str) -> None:
    ran = run("cancel", submitted, REDIS_URL=redis_url)
    assert "Usage" not in ran.err
    assert run("cancel", submitted, "--yes", REDIS_URL=redis_url).code == 0
    assert run("cancel", submitted, REDIS_URL=redis_url).code == 0, "there is nothing to ask"


def test_who_cancels_is_told_what_goes_on(
    submitted: str, run: Run, redis_url: str, redis_client: Any
) -> None:
    message = redis_client.lpop(QUEUE)
    delivery = json.dumps([json.loads(message), "", keys.DEFAULT_QUEUE])
    redis_client.hset(keys.unacked(), "tag", delivery)
    scope = "model:typo@1a2b3c4d"
    set_hold(redis_client, scope, "model_refused", by="w-1@host")
    set_hold(redis_client, "model:mine@1a2b3c4d", "tariff")
    ran = run("cancel", submitted, "--yes", REDIS_URL=redis_url)
    removed, left, held = ran.err.splitlines()
    assert removed == "removed messages: 0 (chunks: 0, runs: 0)"
    assert left.startswith("workers hold messages: 1; ")
    assert "within 270 s" in left
    assert held.startswith(f"{scope} is held: that ends by itself within 5 minutes")


def test_a_directory_without_a_run_is_one_line_and_stays_as_it_is(
    run: Run, redis_url: str, tmp_path: Path
) -> None:
    ran = run("cancel", ".", "--yes", REDIS_URL=redis_url)
    assert (ran.code, ran.out) == (78, "")
    assert "is not a run directory" in ran.complaint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL"])
def test_without_redis(run: Run, redis_url: str, nowhere: str, variable: str) -> None:
    ran = run("cancel", "--all", "--yes", **{"REDIS_URL": redis_url, variable: nowhere})
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.endswith(f"start it, or correct {variable}")


def test_a_directory_that_is_not_there_is_said_before_anything_is_asked(run: Run) -> None:
    ran = run("cancel", "var/nosuch")
    assert ran.code == 78
    assert "var/nosuch" in ran.complaint
    assert "--yes" not in ran.complaint
