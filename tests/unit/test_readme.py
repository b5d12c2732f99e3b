"""The README says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from qaworker.cli.main import COMMANDS
from qaworker.errors import ExitCode
from qaworker.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_settings_are_those_of_the_code() -> None:
    assert Settings.table() in README, "paste what `qaworker config --markdown` prints"


def test_every_command_is_named() -> None:
    assert {name for name in COMMANDS if f"`qaworker {name}" not in README} <= {"quickstart"}


def test_every_exit_status_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert explained == {int(code) for code in ExitCode}
