"""``qaworker hold``, as an operator types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker.llm.addresses import account
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
    assert (was_set.code, was_set.err) == (0, "")
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
    assert "its own command, given again, goes on" in released.out
    assert released.out.endswith(f"still held: {scope}\n")
    as_json = json.loads(hold("release", scope, "--json").out)
    assert as_json == {"scope": scope, "was_held": True, "waiting": 0, "held": []}


@pytest.mark.parametrize("action", [["set", "gpt-5-mini", "why"], ["release", "gpt-5-mini"]])
def test_what_is_no_scope_is_a_wrong_command_line(hold: Run, action: list[str]) -> None:
    ran = hold(*action)
    assert (ran.code, ran.out) == (2, "")
    assert "gpt-5-mini is none of account, model:NAME and run:ID" in ran.err


def test_without_redis(run: Run, nowhere: str) -> None:
    ran = run("hold", "set", "account", "why", REDIS_URL=nowhere)
    assert (ran.code, ran.out) == (75, "")
    assert ran.complaint.endswith("start it, or correct REDIS_URL")
