from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.commands import Run, runner


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the command in tmp_path."""
    return runner(tmp_path)
