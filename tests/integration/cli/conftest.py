from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Run, runner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in tmp_path."""
    return runner(tmp_path)


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    """The address of a Redis that is not there."""
    return f"unix://{tmp_path}/no.sock"
