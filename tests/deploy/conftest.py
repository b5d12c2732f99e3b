"""A checkout to run things in, and a supervisord."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.site import Site
from tests.support.processes import ROOT

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "var", "build", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info"
)


@pytest.fixture
def checkout(short_path: Path) -> Path:
    """A copy of the tree as a clone would be."""
    path = short_path / "clone"
    shutil.copytree(ROOT, path, ignore=LEFT_OUT)
    return path


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """Makes an installation of the test's own on a Redis: what calls the workers and asks them."""
    with contextlib.ExitStack() as stack:
        yield lambda redis_url: Site(tmp_path, redis_url, stack)


@pytest.fixture
def site(open_site: Callable[[str], Site], redis_url: str) -> Site:
    """An installation on an empty Redis."""
    return open_site(redis_url)
