"""What supervisord says, and what it is when it says nothing."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from qaworker.errors import OwnerError
from qaworker.owners.supervisor_rpc import NotThere, Program
from qaworker.owners.supervisord import Supervisord


def program(state: str, exit_status: int = 0, *, is_new: bool = False) -> Program:
    return Program("qa-celery", 1, 0, state, exit_status, is_new, 60, "")


@pytest.mark.parametrize(
    ("given", "is_over", "is_wanted"),
    [
        (program("RUNNING"), False, True),
        (program("BACKOFF"), False, True),
        (program("STOPPING"), False, False),
        (program("STOPPED"), True, False),
        (program("STOPPED", is_new=True), False, True),
        # 0 and 75 are started again, 78 is not.
        (program("EXITED", 0), False, True),
        (program("EXITED", 75), False, True),
        (program("EXITED", 78), True, True),
        (program("FATAL"), True, True),
    ],
)
def test_states(given: Program, is_over: bool, is_wanted: bool) -> None:
    assert (given.is_over, given.is_wanted) == (is_over, is_wanted)


def test_where_nobody_listens_nothing_is_owned(tmp_path: Path) -> None:
    supervisord = Supervisord(tmp_path, tmp_path, 330)
    assert not supervisord.is_available()
    assert supervisord.owned() == []
    assert supervisord.expected() == 0
    assert supervisord.stop_timeout_s() is None
    with pytest.raises(NotThere, match="no supervisord listens"):
        supervisord.restart(1, 1)


def test_one_that_hangs_is_there_and_not_waited_for(tmp_path: Path) -> None:
    supervisord = Supervisord(tmp_path, tmp_path, 330)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "supervisor.sock"))
        hung.listen()
        assert supervisord.is_available()
        started_at = time.monotonic()
        with pytest.raises(OwnerError, match="does not answer"):
            supervisord.owned()
    assert time.monotonic() - started_at < 5


def test_a_path_with_spaces_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "with space"
    with pytest.raises(OwnerError, match="no path with spaces"):
        Supervisord(directory, tmp_path, 330).start(1, None)
