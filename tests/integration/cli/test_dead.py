"""``qaworker dead``, as an operator types it; what a requeue sends stands in test_dead_letters.py."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.cli.main import main
from qaworker.engine.batches import parse_batch
from qaworker.store.dead_letters import UNREADABLE, DeadLetter, DeadLetters, Selection, put
from qaworker.store.ledger import Ledger
from tests.support.commands import LONGEST_S, Run
from tests.support.processes import QAWORKER, child_environment

QUEUE = keys.queue(keys.DEFAULT_QUEUE)
KEEP = timedelta(days=30)


def letter(run_id: str, text: str, reason: str, *, age_s: float = 0.0) -> DeadLetter:
    given = {"chunk_id": f"{run_id}#{reason}", "text": text}
    batch = parse_batch([given], {}, "gpt-5-mini", base_url="http://127.0.0.1:9/v1")
    return DeadLetter(
        digest=batch.digests[0],
        run_id=run_id,
        reason=reason,
        detail="said no\x1b[2J 拒否",
        attempts=1,
        calls=2,
        died_at=time.time() - age_s,
        queue=keys.DEFAULT_QUEUE,
        chunk=batch.chunks[0],
        config=batch.config,
        model="gpt-5-mini",
    )


@pytest.fixture
def letters(redis_client: Redis) -> list[DeadLetter]:
    """Three letters, the newest first."""
    kept = [
        DeadLetter(digest="ab" * 16, reason=UNREADABLE, died_at=time.time(), raw=b"{\x1b[2J\xff"),
        letter("run-2", "窯は年に二度焚かれた。\n灰は畑に。", "refused", age_s=700),
        letter("run-1", "The kiln was lit twice a year.", "invalid", age_s=7300),
    ]
    with redis_client.pipeline() as pipe:
        for one in kept:
            put(pipe, one, KEEP)
        pipe.execute()
    return kept


@pytest.fixture
def dead(run: Run, redis_url: str) -> Run:
    """Runs ``qaworker dead …``."""
    return lambda *arguments: run("dead", *arguments, REDIS_URL=redis_url)


def left(redis: Redis) -> list[DeadLetter]:
    return list(DeadLetters(redis).find(Selection()))


def test_the_list(dead: Run, letters: list[DeadLetter]) -> None:
    ran = dead("list")
    assert (ran.code, ran.err) == (0, "")
    headings, *lines = ran.out.splitlines()
    assert headings.split() == [
        "digest",
        "died",
        "reason",
        "calls",
        "run",
        "chunk",
        "last",
        "error",
    ]
    assert [line.split()[0] for line in lines] == [one.digest[:12] for one in letters]
    assert lines[1].split()[1:5] == ["11", "min", "ago", "refused"]
    assert r"said no\x1b[2J 拒否" in lines[1]
    listed: list[dict[str, Any]] = json.loads(dead("list", "--json").out)
    assert [one["digest"] for one in listed] == [one.digest for one in letters]
    assert listed[1]["chunk"]["text"].startswith("窯は")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--reason", "refused"], ["refused"]),
        (["--run", "run-1"], ["invalid"]),
        (["--older-than", "1h"], ["invalid"]),
        (["--newer-than", "2h"], [UNREADABLE, "refused"]),
        (["--older-than", "60s", "--newer-than", "1d"], ["refused", "invalid"]),
        (["abab"], [UNREADABLE]),
        (["ffffffff"], []),
    ],
)
def test_filters(
    letters: list[DeadLetter],
    filters: list[str],
    expected: list[str],
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert len(letters) == 3
    monkeypatch.setenv("REDIS_URL", redis_url)
    assert main(["dead", "list", "--json", *filters]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["reason"] for one in found] == expected


def test_a_run_may_be_named_by_its_directory(
    dead: Run, letters: list[DeadLetter], redis_client: Redis, tmp_path: Path
) -> None:
    with Ledger.create_or_open(tmp_path / "kiln") as ledger:
        own = letter(ledger.run_id, "The kiln.", "truncated")
    with redis_client.pipeline() as pipe:
        put(pipe, own, KEEP)
        pipe.execute()
    found = json.loads(dead("list", "--json", "--run", "kiln").out)
    assert [one["reason"] for one in found] == ["truncated"]
    assert len(letters) == 3


def test_show_prints_inputs_and_leaves_the_terminal_as_it_is(
    dead: Run, letters: list[DeadLetter]
) -> None:
    ran = dead("show", letters[1].digest[:10], letters[0].digest)
    assert ran.code == 0
    assert "\x1b" not in ran.out
    assert r"text: 窯は年に二度焚かれた。\n灰は畑に。" in ran.out
    assert 'origin: {"chunk_id":"run-2#refused","language":"ja"}' in ran.out
    assert r"begins: {\x1b[2J\xff" in ran.out
    assert "bytes: 6" in ran.out
    nothing = dead("show", "ffffffff")
    assert (nothing.code, nothing.out) == (1, "there is no such dead letter\n")


def test_requeue_sends_and_says_what_it_did_not(
    dead: Run, letters: list[DeadLetter], redis_client: Any
) -> None:
    sent = dead("requeue", "--yes", "--reason", "refused")
    assert (sent.code, sent.out, sent.err) == (0, "chunks sent again: 1\n", "")
    ran = dead("requeue", "--yes")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out == "chunks sent again: 1\nnot sent (unreadable): 1\n"
    assert redis_client.llen(QUEUE) == 2
    assert left(redis_client) == letters[:1]
    again = dead("requeue", "--yes", "--json")
    assert again.code == 1
    assert json.loads(again.out) == {"sent": 0, "unsent": 0, "refused": {"unreadable": 1}}


def test_discard_removes_the_letters_alone(
    dead: Run, letters: list[DeadLetter], redis_client: Any
) -> None:
    ran = dead("discard", "--yes", "--reason", "refused")
    assert (ran.code, ran.out) == (0, "dead letters discarded: 1\n")
    assert left(redis_client) == [letters[0], letters[2]]
    assert redis_client.llen(QUEUE) == 0


@pytest.mark.parametrize("action", ["list", "show", "requeue", "discard"])
def test_an_empty_digest_does_not_mean_all(
    letters: list[DeadLetter],
    action: str,
    redis_url: str,
    redis_client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    options = ["--yes"] if action in {"requeue", "discard"} else []
    assert main(["dead", action, "", *options]) == 2
    assert "a DIGEST is empty" in capsys.readouterr().err
    assert left(redis_client) == letters


@pytest.mark.parametrize("answer", ["n", "y"])
@pytest.mark.parametrize("action", ["requeue", "discard"])
def test_a_person_is_asked(
    letters: list[DeadLetter],
    redis_url: str,
    redis_client: Any,
    tmp_path: Path,
    action: str,
    answer: str,
) -> None:
    keyboard, terminal = pty.openpty()
    with os.fdopen(keyboard, "wb", buffering=0) as keys_of, os.fdopen(terminal, "rb") as stdin:
        keys_of.write(f"{answer}\n".encode())
        ran = subprocess.run(
            [*QAWORKER, "dead", action, "--run", "run-1"],
            env=child_environment(tmp_path, REDIS_URL=redis_url, COLUMNS="200"),
            cwd=tmp_path,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    assert "dead letters: 1 (invalid 1), runs: 1" in ran.stderr
    is_done = answer == "y"
    assert ran.returncode == (0 if is_done else 130), ran.stderr
    assert left(redis_client) == (letters[:2] if is_done else letters)
    assert redis_client.llen(QUEUE) == (1 if is_done and action == "requeue" else 0)


@pytest.mark.parametrize("action", ["requeue", "discard"])
def test_without_a_terminal_nothing_happens_unasked(
    dead: Run, letters: list[DeadLetter], redis_client: Any, action: str
) -> None:
    ran = dead(action)
    assert (ran.code, ran.out) == (2, "")
    assert "there is no terminal to ask at: give --yes" in ran.err
    assert left(redis_client) == letters


@pytest.mark.parametrize("action", ["list", "discard"])
@pytest.mark.usefixtures("letters")
def test_what_is_mistyped_is_not_taken_for_all_is_well(dead: Run, action: str) -> None:
    ran = dead(action, "--reason", "foo")
    assert (ran.code, ran.out) == (2, "")
    assert "nothing dies of foo: give one of internal, invalid, " in ran.err
    assert "run nope has none left: is that its id?" in dead(action, "--run", "nope").err
    assert "left none" not in dead(action, "--run", "run-1", "--reason", "truncated").err


@pytest.mark.parametrize("action", ["requeue", "discard"])
def test_what_is_not_there_is_said_and_fails(
    dead: Run, letters: list[DeadLetter], redis_client: Redis, action: str
) -> None:
    ran = dead(action, "ffffffff")
    assert (ran.code, ran.out) == (1, "")
    assert ran.complaint == "there is no such dead letter: see `qaworker dead list`"
    assert left(redis_client) == letters


@pytest.mark.parametrize("arguments", [["list"], ["requeue", "--yes"]])
def test_without_redis(run: Run, nowhere: str, arguments: list[str]) -> None:
    ran = run("dead", *arguments, REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.endswith("start it, or correct REDIS_URL")
