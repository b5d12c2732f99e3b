"""``qaworker hold``, as an operator types it."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from redis import Redis

from qaworker import keys
from qaworker.cli.main import main
from qaworker.llm.addresses import account
from qaworker.store.heartbeats import Beat, beat
from qaworker.store.holds import account_scope, holds, model_scope, set_hold
from qaworker.store.ledger import Ledger
from tests.support.commands import Run

BASE_URL = "http://127.0.0.1:9/v1"
KEY = "sk-of-the-test-0123456789"


@pytest.fixture
def hold(run: Run, redis_url: str) -> Run:
    """Runs ``qaworker hold …`` on this host's account."""
    env = {"REDIS_URL": redis_url, "OPENAI_BASE_URL": BASE_URL, "OPENAI_API_KEY": KEY}
    return lambda *arguments: run("hold", *arguments, **env)


@pytest.mark.slow
def test_a_hold_is_set_listed_and_released(hold: Run, redis_client: Redis) -> None:
    own = account_scope(account(BASE_URL, KEY))
    assert hold("list").out == "nothing is held\n"
    was_set = hold("set", "account", "the invoice is not paid 未払い")
    assert was_set.code == 0
    assert was_set.complaint.startswith("no worker answers: ")
    assert was_set.out == f"holds {own}: `qaworker hold release {own}` ends it\n"
    [stored] = holds(redis_client)
    assert (stored.scope, stored.by) == (own, "operator")

    [headings, line] = hold("list").out.splitlines()
    assert headings.split()[:3] == ["scope", "since", "by"]
    assert own in line
    assert "the invoice is not paid 未払い" in line
    assert line.split()[-2:] == ["-", "-"], "nobody tries it"
    assert "which was held already" in hold("set", "account", "and again").out

    released = hold("release", "account")
    assert released.code == 0
    assert released.out == f"released {own}: calls go on within seconds (messages waiting: 0)\n"
    again = hold("release", own)
    assert (again.code, again.out) == (1, "")
    assert again.complaint == f"{own} was not held: see `qaworker hold list`"


@pytest.mark.slow
def test_what_a_worker_holds_says_why_and_when_it_is_tried(
    hold: Run, redis_client: Redis, tmp_path: Path
) -> None:
    scope = model_scope("ffffffff", "gpt-5-mini")
    set_hold(redis_client, scope, "model_refused", detail="no such\x1b[2J model", by="w-1@host")
    line = hold("list").out.splitlines()[1]
    assert scope in line
    assert "w-1@host" in line
    assert r"no such\x1b[2J model" in line
    assert " in 1" in line
    with Ledger.create_or_open(tmp_path / "kiln") as ledger:
        run_scope = f"run:{ledger.run_id}"
    set_hold(redis_client, run_scope, "budget", by="w-1@host")
    listed: list[dict[str, Any]] = json.loads(hold("list", "--json").out)
    assert [one["scope"] for one in listed] == [scope, run_scope]
    assert listed[0].keys() == {"scope", "reason", "detail", "by", "since", "probe_at"}
    assert hold("list").out.splitlines()[2].split()[-2:] == ["-", "-"], "a run is not tried"
    released = hold("release", "run:kiln")
    assert "its budget is still spent: its own command takes a larger --budget" in released.out
    assert released.out.endswith(f"still held: {scope}\n")
    as_json = json.loads(hold("release", scope, "--json").out)
    assert as_json == {"scope": scope, "was_held": True, "waiting": 0, "held": []}


@pytest.mark.parametrize("reason", ["", " "])
def test_a_hold_without_a_reason_is_refused(hold: Run, redis_client: Redis, reason: str) -> None:
    ran = hold("set", "account", reason)
    assert (ran.code, ran.out) == (2, "")
    assert "REASON is empty" in ran.err
    assert holds(redis_client) == []


@pytest.mark.parametrize("action", [["set", "gpt-5-mini", "why"], ["release", "gpt-5-mini"]])
def test_what_is_no_scope_is_a_wrong_command_line(hold: Run, action: list[str]) -> None:
    ran = hold(*action)
    assert (ran.code, ran.out) == (2, "")
    assert "gpt-5-mini is none of account, model:NAME and run:ID" in ran.err


class Answering(NamedTuple):
    """What ``hold set`` does on a host with or without the key, and what is held then."""

    key: str
    workers: list[str]
    scope: str
    code: int
    words: str
    held: list[str]


OWN = account(BASE_URL, KEY)
ONE, OTHER = "1a2b3c4d", "5e6f7a8b"


@pytest.mark.parametrize(
    "case",
    [
        # Whoever cannot read the key stops the workers all the same.
        Answering("", [ONE], "account", 0, "", [account_scope(ONE)]),
        Answering(KEY, [ONE], "account", 0, "", [account_scope(ONE)]),
        Answering(KEY, [ONE], "model:m", 0, "nobody called m within", [model_scope(ONE, "m")]),
        Answering(KEY, [OWN, ONE], "account", 0, f"set account@{ONE}", [account_scope(OWN)]),
        Answering("", [ONE, OTHER], "account", 2, f"account@{ONE} or account@{OTHER}", []),
        Answering("", [], "account", 2, "no worker answers", []),
        Answering("", [ONE], f"account@{OTHER}", 2, f"they use {ONE}", []),
        Answering("", [], f"account@{OTHER}", 0, "no worker answers", [account_scope(OTHER)]),
        Answering(KEY, [ONE], "run:typo", 2, "correct its id", []),
    ],
    ids=lambda case: f"{case.scope} {len(case.workers)} {bool(case.key)}",
)
def test_what_is_held_is_what_workers_use(
    case: Answering,
    redis_url: str,
    redis_client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("OPENAI_BASE_URL", BASE_URL)
    monkeypatch.setenv("OPENAI_API_KEY", case.key)
    for number, name in enumerate(case.workers, 1):
        beat(redis_client, Beat(name=f"qa_worker-{number}@host", pid=1, account=name))
    assert main(["hold", "set", case.scope, "stop"]) == case.code
    said = capsys.readouterr().err
    assert case.words in said
    assert said or not case.words
    assert [hold.scope for hold in holds(redis_client)] == case.held


def test_a_run_is_held_of_which_something_waits(
    redis_url: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    message = {"headers": {"qaworker_run": "0a1b"}, "body": b64encode(b"[[[]], {}, {}]").decode()}
    redis_client.lpush(keys.queue(keys.DEFAULT_QUEUE), json.dumps(message))
    assert main(["hold", "set", "run:0a1b", "stop"]) == 0
    assert [hold.scope for hold in holds(redis_client)] == ["run:0a1b"]


def test_a_hold_is_released_while_the_queue_is_away(
    redis_url: str,
    redis_client: Redis,
    nowhere: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("CELERY_BROKER_URL", nowhere)
    set_hold(redis_client, account_scope(ONE), "halted", by="w-1@host")
    assert main(["hold", "release", account_scope(ONE)]) == 0
    assert "messages waiting: not known" in capsys.readouterr().out
    assert holds(redis_client) == []


def test_without_redis(run: Run, nowhere: str) -> None:
    ran = run("hold", "set", "account", "why", REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.endswith("start it, or correct REDIS_URL")
