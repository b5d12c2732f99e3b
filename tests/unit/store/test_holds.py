from __future__ import annotations

import pytest

from qaworker.store.holds import Hold, account_scope, model_scope, parse_scope, run_scope

OWN = "1a2b3c4d"
OTHER = "ffffffff"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("account", account_scope(OWN)),
        (account_scope(OTHER), account_scope(OTHER)),
        ("model:gpt-5-mini", model_scope(OWN, "gpt-5-mini")),
        ("model:llama3:8b@latest", model_scope(OWN, "llama3:8b@latest")),
        (model_scope(OTHER, "org/llama3:8b"), model_scope(OTHER, "org/llama3:8b")),
        (run_scope("0a1b"), run_scope("0a1b")),
    ],
)
def test_people_may_leave_their_own_account_out(given: str, expected: str) -> None:
    assert parse_scope(given, OWN) == expected


@pytest.mark.parametrize("given", ["", "accounts", "model", "model:", "run", "run:", "gpt-5-mini"])
def test_what_is_no_scope_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="none of account, model:NAME and run:ID"):
        parse_scope(given, OWN)


@pytest.mark.parametrize(
    ("scope", "kind", "account"),
    [
        (account_scope(OWN), "account", OWN),
        (model_scope(OWN, "llama3:8b@latest"), "model", OWN),
        (run_scope("0a1b"), "run", ""),
    ],
)
def test_a_hold_tells_what_it_is_of(scope: str, kind: str, account: str) -> None:
    hold = Hold(scope=scope, reason="halted", since=0, probe_at=0)
    assert (hold.kind, hold.account) == (kind, account)
