"""Real processes and real signals: fixtures of the acceptance tests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.site import Site


@pytest.fixture
def open_site(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """Makes the installation on a Redis of the test's own."""
    with contextlib.ExitStack() as stack:
        yield lambda redis_url: Site(tmp_path, redis_url, stack)


@pytest.fixture
def site(open_site: Callable[[str], Site], redis_url: str) -> Site:
    """An installation on an empty Redis."""
    return open_site(redis_url)
