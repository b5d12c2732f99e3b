"""The script itself: where it finds qaworker, from wherever it is called."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Ran
from tests.support.processes import ROOT, child_environment

SCRIPT = "start_celery.sh"
INSTALLED = Path("/etc/qaworker/qaworker.env")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with nothing in it but the script, and a link to that somewhere on PATH."""
    (tmp_path / "tree" / "bin").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    script = shutil.copy(ROOT / "bin" / SCRIPT, tmp_path / "tree" / "bin")
    (tmp_path / "elsewhere" / SCRIPT).symlink_to(script)
    return tmp_path / "tree"


def install(tree: Path, place: str) -> None:
    """Put a Python there that has qaworker."""
    python = tree / place / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)


def run(tree: Path, *arguments: str, **env: str) -> Ran:
    """Call it by its link."""
    elsewhere = tree.parent / "elsewhere"
    ran = subprocess.run(
        [elsewhere / SCRIPT, *arguments],
        cwd=elsewhere,
        env=child_environment(elsewhere, REDIS_URL="unix:///nowhere/redis.sock", **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("place", ["venv", ".venv"])
def test_it_runs_what_is_installed_beside_it(tree: Path, place: str) -> None:
    install(tree, place)
    ran = run(tree, "start", QAWORKER_ENV_FILE="")
    assert ran.code == 75
    assert ran.complaint.startswith(f"{SCRIPT}: Redis does not answer")
    # What is relative is so to the tree, not to where it was called.
    assert (tree / "var" / "run" / "service.lock").exists()


@pytest.mark.skipif(INSTALLED.exists(), reason=f"there is {INSTALLED} here")
@pytest.mark.parametrize(("action", "code"), [("start", 78), ("status", 3), ("stop", 0)])
def test_an_installation_without_its_settings_is_told_of(
    tree: Path, action: str, code: int
) -> None:
    install(tree, "venv")
    ran = run(tree, action)
    assert (ran.code, str(INSTALLED) in ran.err) == (code, True)


def test_without_an_installation_it_says_how_to_install(tree: Path) -> None:
    ran = run(tree, "start")
    assert ran.code == 69
    assert "run bin/venv.sh, or sudo deploy/install.sh" in ran.complaint
