from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from qaworker import checks
from qaworker.checks import CheckFailed, Finding, finding
from qaworker.errors import StoreUnavailable
from qaworker.owners.owner import Owner, OwnerName


def test_what_a_check_returns_is_its_finding() -> None:
    assert finding("api", lambda: "it answers") == Finding("api", True, "it answers")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CheckFailed("free some"), "free some"),
        (StoreUnavailable("Redis is away"), "Redis is away"),
        (ValueError("netrc and\nauth"), "ValueError: netrc and auth"),
        (AssertionError(), "AssertionError:"),
    ],
)
def test_whatever_a_check_raises_is_its_finding(error: Exception, text: str) -> None:
    def check() -> str:
        raise error

    assert finding("api", check) == Finding("api", False, text)


@pytest.mark.parametrize("kind", [None, CheckFailed, StoreUnavailable, ValueError])
def test_no_finding_shows_a_secret(kind: type[Exception] | None) -> None:
    def check() -> str:
        text = "http://user:canary@host/v1 offers all"
        if kind is not None:
            raise kind(text)
        return text

    assert finding("api", check).text.endswith("http://***@host/v1 offers all")


class Granting:
    """An owner that grants a stop so many seconds."""

    def __init__(self, name: OwnerName, granted_s: float | None) -> None:
        self.name = name
        self._granted_s = granted_s

    def stop_timeout_s(self) -> float | None:
        return self._granted_s


def owner(name: OwnerName, granted_s: float | None) -> Finding:
    """What is found of it where a stop may take 330 s."""
    granting = cast("Owner", Granting(name, granted_s))
    return finding("owner", lambda: checks._owner(granting, 330))


@pytest.mark.parametrize(
    ("name", "mend"),
    [("systemd", "sudo deploy/install.sh"), ("supervisor", "bin/start_celery.sh restart")],
)
def test_an_owner_that_waits_less_than_a_stop_takes_fails(name: OwnerName, mend: str) -> None:
    found = owner(name, 210)
    assert not found.is_ok
    assert found.text == f"{name} waits 210 s for a stop, which may take 330 s: `{mend}`"


@pytest.mark.parametrize("granted_s", [330, 331, None])
def test_an_owner_that_waits_long_enough_does_not(granted_s: float | None) -> None:
    assert owner("systemd", granted_s).is_ok


def test_nobody_need_own_the_workers() -> None:
    assert finding("owner", lambda: checks._owner(None, 330)).is_ok


def test_the_disk_is_found_where_the_runs_will_be(tmp_path: Path) -> None:
    assert f"GiB free at {tmp_path}" in checks._disk(tmp_path / "var/runs")


def test_a_disk_that_cannot_be_written_is_found() -> None:
    # Not even root writes there.
    with pytest.raises(CheckFailed, match="cannot be written"):
        checks._disk(Path("/proc/self/runs"))
