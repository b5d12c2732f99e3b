"""deploy/qaworker.env, which an installation begins with."""

from __future__ import annotations

import re

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
