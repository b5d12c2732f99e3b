"""Files of NAME=value lines, and deploy/qaworker.env, which an installation begins with."""

from __future__ import annotations

import re

import pytest

from qaworker import env_file
from qaworker.settings import Settings
from tests.support.processes import ROOT

# What a default cannot say: the directories that the installer makes.
INSTALLED = {
    "QAWORKER_RUNTIME_DIR": "/run/qaworker",
    "QAWORKER_LOG_DIR": "/var/log/qaworker",
    "QAWORKER_DATA_DIR": "/var/lib/qaworker/data",
    "QAWORKER_RUNS_DIR": "/var/lib/qaworker/runs",
}
# The file itself cannot name it.
LEFT_OUT = "QAWORKER_ENV_FILE"


def test_it_names_every_variable_with_its_meaning_and_default() -> None:
    """The rows of the README's table, in their order."""
    text = (ROOT / "deploy" / "qaworker.env").read_text(encoding="utf-8")
    said = re.findall(r"^# (.+)\n(#?)(\w+)=(.*)$", text, re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\| (.+) \|$", Settings.table(), re.MULTILINE)
    expected = [
        (meaning, "" if name in INSTALLED else "#", name, INSTALLED.get(name, default))
        for name, default, meaning in rows
        if name != LEFT_OUT
    ]
    assert said == expected


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=", ""),
        ("  NAME = two words  ", "two words"),
        ("NAME=redis://u:p%40#x$1@h/0?a=b", "redis://u:p%40#x$1@h/0?a=b"),
        ("NAME=${OTHER}/it's", "${OTHER}/it's"),
        ('NAME="a # b"', "a # b"),
        ("NAME='a'", "a"),
        ('NAME="it\'s"', "it's"),
        ("name=沈黙", "沈黙"),
    ],
)
def test_a_value_is_read_as_systemd_reads_it(line: str, value: str) -> None:
    text = f"OTHER=1\n# NAME=comment\n\n; NAME=comment\n{line}\n"
    assert env_file.parse(text) == ({"OTHER": "1", "NAME": value}, [])


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("NAME=secret # why", "line 2: NAME: "),
        ("NAME=sec\\ret", "line 2: NAME: "),
        ("NAME=secret\\", "line 2: NAME: "),
        ('NAME="secret', "line 2: NAME: "),
        ('NAME="secret"x', "line 2: NAME: "),
        ('NAME="sec""ret"', "line 2: NAME: "),
        ("NAME='", "line 2: NAME: "),
        ("# secret\\", "line 2: "),
        ("export NAME=secret", "line 2: "),
        ("secret", "line 2: "),
    ],
)
def test_what_two_would_read_differently_is_left_out_and_not_quoted(line: str, names: str) -> None:
    values, (complaint,) = env_file.parse(f"OTHER=1\n{line}\nLAST=2")
    assert values == {"OTHER": "1", "LAST": "2"}
    assert complaint.startswith(names)
    assert "secret" not in complaint
