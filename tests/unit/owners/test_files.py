"""Files that root writes where another user may have left links."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from qaworker.errors import Busy, OwnerError
from qaworker.owners.files import open_log, replace
from qaworker.owners.lock import LOCK_NAME, locked


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory where files can be made, and nothing be written into them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def link(tmp_path: Path) -> Path:
    """A link to somebody else's file, under every name that was ever guessable."""
    (tmp_path / "victim").write_text("precious", encoding="utf-8")
    place = tmp_path / "place"
    place.mkdir()
    for name in ("file", "file.new"):
        (place / name).symlink_to(tmp_path / "victim")
    return place / "file"


def test_a_file_takes_the_place_of_a_link(link: Path) -> None:
    replace(link, "ours")
    assert not link.is_symlink()
    assert link.read_text(encoding="utf-8") == "ours"
    assert link.stat().st_mode & 0o777 == 0o644
    assert (link.parent.parent / "victim").read_text(encoding="utf-8") == "precious"


def test_neither_a_log_nor_a_lock_is_a_link(link: Path) -> None:
    with pytest.raises(OwnerError, match="file"):
        open_log(link)
    with pytest.raises(OwnerError, match="file"), locked(link.parent, "stop", link.name):
        pass
    assert (link.parent.parent / "victim").read_text(encoding="utf-8") == "precious"


def test_on_a_full_disk_nothing_is_left_half_done(full_disk: Path) -> None:
    with pytest.raises(OwnerError, match="file"):
        replace(full_disk / "file", "ours")
    assert list(full_disk.iterdir()) == []


def test_on_a_full_disk_the_lock_is_held_all_the_same(full_disk: Path) -> None:
    with locked(full_disk, "stop"), pytest.raises(Busy), locked(full_disk, "start"):
        pass


def test_what_root_leaves_locks_its_directorys_owner_not_out(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    os.chown(tmp_path, 65533, 65533)
    open_log(tmp_path / "log").close()
    with locked(tmp_path, "stop"):
        assert (tmp_path / LOCK_NAME).stat().st_uid == 65533
    assert (tmp_path / "log").stat().st_uid == 65533
