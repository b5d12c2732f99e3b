"""The README says what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from qaworker.cli.main import COMMANDS
from qaworker.errors import ExitCode
from qaworker.limits.rates import rate_table
from qaworker.settings import Settings
from qaworker.variables import OPENAI_URL

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_settings_are_those_of_the_code() -> None:
    assert Settings.table() in README, "paste what `qaworker config --markdown` prints"


def test_every_command_is_named() -> None:
    assert {name for name in COMMANDS if f"`qaworker {name}" not in README} <= {"quickstart"}


def test_every_exit_status_is_explained() -> None:
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert explained == {int(code) for code in ExitCode}


def test_the_floors_are_those_of_the_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [layers] = [
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    [shown] = re.findall(r"```\n( __main__\n.*?)```", README, flags=re.DOTALL)
    floors = [re.findall(r"\w+", layer) for layer in layers]
    words = re.findall(r"\w+", shown)
    assert {name for floor in floors for name in floor} - set(words) == set()
    places = [min(words.index(name) for name in floor) for floor in floors]
    assert places == sorted(places)


def test_the_limits_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (`gpt.*?`) \| ([\d,]+) \| ([\d,]+) \|", README, flags=re.MULTILINE)
    said = {
        model: (int(rpm.replace(",", "")), int(tpm.replace(",", "")))
        for models, rpm, tpm in rows
        for model in re.findall(r"`(.*?)`", models)
    }
    table = rate_table(OPENAI_URL)
    assert said == {model: (table.of(model).rpm, table.of(model).tpm) for model in said}
    assert len(said) == 9


def test_the_files_it_names_are_there() -> None:
    targets = re.findall(r"\]\(([^):#]+)[^):]*\)", README)
    assert targets
    assert [name for name in targets if not (ROOT / name).exists()] == []
