"""The Japanese catalogue against the code, and what an operator reads of it."""

from __future__ import annotations

import ast
import gettext
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from gettext import GNUTranslations
from pathlib import Path
from string import Formatter
from typing import Any

import click
import pytest

import qaworker
from qaworker import translations
from qaworker.cli import service

SOURCE = Path(qaworker.__file__).parent
PLACE = SOURCE / "locale" / "ja" / "LC_MESSAGES"
MEND = "run bin/fix.sh, and translate what is new in qaworker.po"


def messages(directory: Path) -> set[str]:
    """The first argument of each ``_()`` and ``ngettext()`` in the code."""
    calls = (
        node
        for path in directory.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    texts = [call.args[0] for call in calls if call.func.id in {"_", "ngettext"}]  # type: ignore[attr-defined]
    return {str(text.value) for text in texts if isinstance(text, ast.Constant)}


def read(compiled: bytes) -> dict[str, str]:
    """Translations by message; of one with a plural, which Japanese lacks, by its singular."""
    catalogue: Any = GNUTranslations(io.BytesIO(compiled))
    return {
        key if isinstance(key, str) else key[0]: text
        for key, text in catalogue._catalog.items()
        if key
    }


@pytest.fixture
def catalogue() -> dict[str, str]:
    return read((PLACE / "qaworker.mo").read_bytes())


@pytest.fixture
def japanese(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    domain = gettext.textdomain()
    monkeypatch.setenv("LANGUAGE", "ja")
    translations.bind()
    yield
    gettext.textdomain(domain)


def test_every_message_is_translated_and_nothing_else(catalogue: dict[str, str]) -> None:
    ours = messages(SOURCE)
    assert len(ours) > 100
    assert not ours - catalogue.keys(), MEND
    assert not catalogue.keys() - ours - messages(Path(click.__file__).parent), MEND


def test_translations_fill_in_what_the_messages_fill_in(catalogue: dict[str, str]) -> None:
    def fields(text: str) -> set[tuple[str | None, ...]]:
        return {parts[1:] for parts in Formatter().parse(text) if parts[1] is not None}

    ours = messages(SOURCE)
    assert [
        text for text, said in catalogue.items() if text in ours and fields(text) != fields(said)
    ] == []


def test_the_compiled_catalogue_is_that_of_the_texts(
    tmp_path: Path, catalogue: dict[str, str]
) -> None:
    if shutil.which("msgfmt") is None:
        pytest.skip("no msgfmt here: apt-get install gettext")
    texts = [PLACE / "qaworker.po", PLACE / "click.po"]
    together, compiled = tmp_path / "all.po", tmp_path / "all.mo"
    subprocess.run(["msgcat", "-o", together, *texts], check=True)
    # It checks placeholders, and leaves out what is fuzzy or obsolete.
    subprocess.run(["msgfmt", "--check-format", "-o", compiled, together], check=True)
    assert read(compiled.read_bytes()) == catalogue, MEND
    assert "#~" not in together.read_text(encoding="utf-8")


@pytest.mark.usefixtures("japanese")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "start、stop、restart、status のいずれかを指定してください"),
        ("start --vai pid", "'--vai' というオプションはありません。 もしかして: '--via'"),
        ("start -w 0", "'-w' / '--workers' の値が正しくありません: 0 は範囲 1<=x<=256 の外です。"),
        (
            "start -w abc",
            "'-w' / '--workers' の値が正しくありません: 'abc' は数値として正しくありません (integer range)。",
        ),
        (
            "start --via runit",
            "'--via' の値が正しくありません: 'runit' は 'systemd', 'supervisor', 'pid' のいずれでもありません。",
        ),
        ("start --via", "オプション '--via' には値が必要です。"),
        ("stop --force=1", "オプション '--force' に値は指定できません。"),
        ("start 4 4", "余分な引数があります: 4 4"),
        ("stop -w 4", "stop では --workers を使えません"),
    ],
)
def test_a_wrong_command_line_is_named_in_japanese(arguments: str, complaint: str) -> None:
    with pytest.raises(click.ClickException) as caught:
        service.command.main(arguments.split(), standalone_mode=False)
    assert caught.value.message == f"{complaint} (-h で使い方を表示します)"


@pytest.mark.parametrize(("encoding", "said"), [("euc-jp", "停止しました"), ("latin-1", "stopped")])
def test_a_terminal_without_the_characters_is_spoken_to_in_english(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, encoding: str, said: str
) -> None:
    gettext.textdomain("messages")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    request.getfixturevalue("japanese")
    assert gettext.gettext("stopped") == said
