"""A host with a real systemd, where qaworker is installed, once for all tests here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.site import Site
from tests.support import container
from tests.support.systemd_host import ENV_FILE, SharedRedis, SystemdHost


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One installation serves all tests here: they run one after the other."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("systemd"))


@contextlib.contextmanager
def booted() -> Iterator[SystemdHost]:
    """A host where nothing is installed yet."""
    if missing := container.missing():
        pytest.skip(f"a container with systemd needs {missing}")
    with SharedRedis() as redis, SystemdHost(redis) as host:
        yield host


@pytest.fixture
def fresh_host() -> Iterator[SystemdHost]:
    """A host of the test's own, where nothing is installed yet."""
    with booted() as host:
        yield host


@pytest.fixture(scope="session")
def installed_host() -> Iterator[SystemdHost]:
    """A host with three workers installed, which takes a minute."""
    with booted() as host:
        host.install("--workers", "3")
        host.shipped_env = host.read(ENV_FILE)
        yield host


@pytest.fixture
def host(installed_host: SystemdHost) -> Iterator[SystemdHost]:
    """The host with nothing running and an empty Redis."""
    installed_host.reset()
    installed_host.set_workers(3)
    yield installed_host
    installed_host.reset()


@pytest.fixture
def site(open_site: Callable[[str], Site], host: SystemdHost) -> Site:
    """Commands and the simulated API on this machine, on the Redis that the host's workers use."""
    return open_site(host.redis_server.url)
