"""What is read from systemctl and written for it; tests/deploy has a real one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from qaworker.errors import ConfigError, NotAllowed, OwnerError
from qaworker.owners import systemctl
from qaworker.owners.owner import Owned
from qaworker.owners.systemd import Systemd, drop_in

Says = Callable[..., None]

LOADED = """\
Id=qa-celery@10.service
MainPID=0
ActiveState=failed
ExecMainStatus=78

MainPID=4711
Id=qa-celery@2.service
ActiveState=active
ExecMainStatus=0

Id=qa-celery@3.service
MainPID=0
ActiveState=activating
ExecMainStatus=75
"""


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Says:
    """Lets systemctl say something: ``says("text", code=1, error="…")``."""

    def say(text: str, *, code: int = 0, error: str = "") -> None:
        program = tmp_path / "systemctl"
        program.write_text(
            f"#!/bin/sh\ncat <<'END'\n{text}\nEND\necho '{error}' >&2\nexit {code}\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return say


def test_instances_by_number(says: Says) -> None:
    says(LOADED)
    assert Systemd().owned() == [
        Owned(2, 4711, "running", 0),
        Owned(3, 0, "starting", 75),
        Owned(10, 0, "failed", 78),
    ]
    says("")
    assert Systemd().owned() == []


@pytest.mark.parametrize(
    ("state", "expected"), [("active", 2), ("activating", 2), ("failed", 2), ("inactive", 0)]
)
def test_what_belongs_to_the_umbrella_is_expected(says: Says, state: str, expected: int) -> None:
    wants = "network-online.target qa-celery@1.service qa-celery@12.service"
    says(f"ActiveState={state}\nWants={wants}")
    assert Systemd().expected() == expected
    assert Systemd().configured() == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5min 30s", 330.0),
        ("1h 2min 3.5s", 3723.5),
        ("90s", 90.0),
        ("500ms", 0.5),
        ("infinity", None),
    ],
)
def test_the_time_granted_to_a_stop(says: Says, text: str, seconds: float | None) -> None:
    says(f"TimeoutStopUSec={text}")
    assert Systemd().stop_timeout_s() == seconds


@pytest.mark.parametrize(
    "error",
    [
        "Failed to start qa-celery.service: Access denied",
        "Failed to start qa-celery.service: Interactive authentication required.",
    ],
)
def test_a_refusal_says_what_to_do(says: Says, error: str) -> None:
    says("", code=1, error=error)
    with pytest.raises(NotAllowed, match="sudo"):
        systemctl.systemctl("start", "qa-celery")


def test_a_failure_is_one_line(says: Says) -> None:
    says("", code=5, error="Unit qa-celery.service not found.\nmore")
    with pytest.raises(OwnerError, match=r"^systemctl: Unit qa-celery.service not found\.$"):
        systemctl.systemctl("start", "qa-celery")


@pytest.mark.parametrize("code", [0, 1])
def test_a_journal_that_has_nothing_of_the_units_is_empty(
    tmp_path: Path, says: Says, code: int
) -> None:
    says("")
    program = tmp_path / "journalctl"
    error = "Failed to add filter for units: No data available"
    program.write_text(f"#!/bin/sh\necho '{error}' >&2\nexit {code}\n", encoding="utf-8")
    program.chmod(0o755)
    assert Systemd().log_lines(5) == []


def test_without_the_file_of_the_key_nothing_is_started(says: Says, tmp_path: Path) -> None:
    path = tmp_path / "openai_api_key"
    says(f"ActiveState=inactive\nWants=\nLoadCredential=openai_api_key:{path}")
    with pytest.raises(ConfigError, match=f"{path} is missing"):
        Systemd().start(1, None)


def test_a_start_is_over_when_the_umbrella_is_up(says: Says) -> None:
    says("ActiveState=activating")
    with pytest.raises(OwnerError, match="still starting"):
        Systemd().settle(0)
    says("ActiveState=active")
    Systemd().settle(0)


def test_the_drop_in_names_each_instance() -> None:
    assert "Wants=qa-celery@1.service qa-celery@2.service" in drop_in(2).splitlines()
