"""The shell scripts: their style, and what they say on a machine that lacks something."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.running import running_in
from tests.support.processes import ROOT

SCRIPTS = [
    *sorted(str(path) for place in ("bin", "deploy") for path in (ROOT / place).glob("*.sh")),
    str(ROOT / ".ci" / "run"),
]


@pytest.mark.parametrize("checker", [["shellcheck"], ["shfmt", "-i", "2", "-ci", "-d"]])
def test_scripts_are_clean(checker: list[str]) -> None:
    if not shutil.which(checker[0]):
        pytest.skip(f"{checker[0]} is not installed")
    done = subprocess.run([*checker, *SCRIPTS], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def tools(directory: Path, **programs: str) -> str:
    """A PATH with nothing but a few tools of the system, and programs given as shell scripts."""
    directory.mkdir()
    for name in ("bash", "cat", "cmp", "dirname", "env", "grep", "sed"):
        (directory / name).symlink_to(str(shutil.which(name)))
    for name, script in programs.items():
        program = directory / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
    return str(directory)


OLD = 'echo "Python 3.9.2"; exit 1'
WITHOUT_VENV = f'case "$*" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"'


@pytest.mark.parametrize(
    ("programs", "named"),
    [
        ({}, ["Python 3.11 or newer", "python3.11", "python3.11-venv", "python@3.12"]),
        ({"python3": OLD}, ["Python 3.11 or newer", "python3.11", "python3.11-venv"]),
        (
            {"python3": WITHOUT_VENV},
            [f"install python3.{sys.version_info.minor}-venv", "apt-get install python3-venv"],
        ),
    ],
    ids=["no Python", "an old Python", "no venv"],
)
def test_what_is_missing_is_named(
    checkout: Path, tmp_path: Path, programs: dict[str, str], named: list[str]
) -> None:
    done = subprocess.run(
        [checkout / "bin" / "quickstart.sh"],
        env={"PATH": tools(tmp_path / "tools", **programs), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 69
    assert len(done.stderr.splitlines()) == 1
    for words in named:
        assert words in done.stderr
    assert not (checkout / ".venv").exists()


def test_help_needs_no_installation(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [checkout / "bin" / "quickstart.sh", "--help"],
        env={"PATH": tools(tmp_path / "tools"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--keep" in done.stdout
    assert "set -e" not in done.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fresh_clone_with_bash_and_python_only(checkout: Path, tmp_path: Path) -> None:
    """Nothing but bash, Python and few tools on PATH: no Redis, so the wheel's server serves."""
    home = tmp_path / "home"
    home.mkdir()
    python = os.path.realpath(sys.executable)
    path = tools(tmp_path / "tools", python3=f'exec {python} "$@"')
    network = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name.lower().endswith("_proxy")
    }
    before = set(checkout.rglob("*"))
    for _ in range(2):
        done = subprocess.run(
            [checkout / "bin" / "quickstart.sh"],
            env={**network, "PATH": path, "HOME": str(home), "LANG": "C.UTF-8"},
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Q  " in done.stdout
    assert "making .venv" not in done.stderr
    written = {entry.relative_to(checkout).parts[0] for entry in set(checkout.rglob("*")) - before}
    assert written == {".venv", "var"}
    assert not running_in(checkout)
