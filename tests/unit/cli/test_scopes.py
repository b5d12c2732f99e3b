from __future__ import annotations

from pathlib import Path

import pytest

from qaworker.cli.scopes import run_id_meant
from qaworker.store.ledger import Ledger


@pytest.mark.parametrize("text", ["0123456789abcdef", "x" * 300, "run", ""])
def test_what_is_no_directory_is_an_id(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_id_meant(text) == text


def test_a_directory_means_the_run_in_it(tmp_path: Path) -> None:
    with Ledger.create_or_open(tmp_path) as ledger:
        assert run_id_meant(str(tmp_path)) == ledger.run_id
