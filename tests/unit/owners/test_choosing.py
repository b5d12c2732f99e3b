"""Who is in charge, and that there is one only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from qaworker.errors import OwnerError
from qaworker.owners import choosing
from qaworker.owners.owner import Owned, OwnerName
from qaworker.settings import Settings
from qaworker.store.heartbeats import Beat

RUNNING = [Owned(1, 4711, "running")]
FAILED = [Owned(1, 0, "failed", 78)]


@dataclass
class Fake:
    """An owner that is as it says."""

    name: OwnerName
    available: bool = True
    workers: list[Owned] = field(default_factory=list)

    def is_available(self) -> bool:
        return self.available

    def owned(self) -> list[Owned]:
        return self.workers

    def expected(self) -> int:
        return len(self.workers)


def beat(owner: Any) -> Beat:
    return Beat(
        name="qa_worker-1@host",
        pid=4711,
        owner=owner,
        pool="threads",
        started_at=0,
        calls_in_flight=0,
        chunks_done=0,
    )


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, Fake]:
    """systemd is not there, no supervisord runs, and there are no PID files."""
    fakes = {
        "systemd": Fake("systemd", available=False),
        "supervisor": Fake("supervisor", available=False),
        "pid": Fake("pid"),
    }
    monkeypatch.setattr(choosing, "known", lambda _: list(fakes.values()))
    return fakes


def chosen(via: OwnerName | None = None, *living: Beat) -> str:
    return choosing.choose(Settings(), via, living).name


def test_without_any_owner_it_is_the_last_resort(owners: dict[str, Fake]) -> None:
    assert choosing.in_charge(Settings()) is None
    assert chosen() == "pid"
    assert chosen("supervisor") == "supervisor"
    assert owners


def test_who_is_installed_goes_first(owners: dict[str, Fake]) -> None:
    owners["supervisor"].available = True
    assert chosen() == "supervisor"
    owners["systemd"].available = True
    assert chosen() == "systemd"
    assert chosen("pid") == "pid"


def test_who_has_workers_is_in_charge(owners: dict[str, Fake]) -> None:
    owners["systemd"].available = True
    owners["pid"].workers = RUNNING
    found = choosing.in_charge(Settings())
    assert found is not None
    assert found.name == "pid"
    assert chosen() == "pid"


@pytest.mark.parametrize("via", ["systemd", "supervisor"])
def test_a_second_owner_is_refused(owners: dict[str, Fake], via: OwnerName) -> None:
    owners["pid"].workers = RUNNING
    with pytest.raises(OwnerError, match="run under pid here"):
        chosen(via)
    owners["pid"].workers = FAILED
    owners[via].available = True
    assert chosen(via) == via


def test_a_hung_owner_has_its_workers_all_the_same(owners: dict[str, Fake]) -> None:
    """supervisord does not answer, and its workers' hearts beat."""
    assert not owners["supervisor"].available
    assert chosen(None, beat("supervisor")) == "supervisor"
    with pytest.raises(OwnerError, match="run under supervisor here"):
        chosen("pid", beat("supervisor"))
    assert chosen("pid", beat("none")) == "pid"


def test_units_that_are_not_installed_are_not_started(owners: dict[str, Fake]) -> None:
    assert owners
    with pytest.raises(OwnerError, match=r"sudo deploy/install\.sh"):
        chosen("systemd")
