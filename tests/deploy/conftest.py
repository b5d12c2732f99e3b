"""A checkout to run things in, and a supervisord."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "var", "build", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info"
)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """An empty directory; not under tmp_path, as a socket's path has at most 108 characters."""
    directory = Path(tempfile.mkdtemp(prefix="qaw-", dir="/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def checkout(short_path: Path) -> Path:
    """A copy of the tree as a clone would be."""
    path = short_path / "clone"
    shutil.copytree(ROOT, path, ignore=LEFT_OUT)
    return path
