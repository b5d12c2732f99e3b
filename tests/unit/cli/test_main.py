from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qaworker import __main__ as entry
from qaworker.cli import main
from qaworker.cli.main import COMMANDS, INNER
from qaworker.errors import ConfigError
from tests.support.commands import Run
from tests.support.processes import ROOT, child_environment

HEAVY = ("aiohttp", "celery", "kombu", "openai", "pyarrow", "pydantic_settings", "redis", "rich")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_every_module_with_a_command_is_listed() -> None:
    modules = (ROOT / "qaworker/cli").glob("*.py")
    found = {m.stem for m in modules if "\ndef command(" in m.read_text("utf-8")}
    assert found == {*COMMANDS, *INNER}


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from qaworker.cli import main\n"
        "main.main(['--help'])\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=child_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stderr == "[]\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: qaworker {command}")
    assert "Options:" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], "No such command 'generat'"),
        (["--no-such-option"], "No such option"),
        (["config", "--no-such-option"], "No such option"),
        (["worker", "--number", "0"], "0 is not in the range"),
        (["collect"], "Missing argument 'RUN_DIR'"),
        (["collect", "run", "--timeout", "-1"], "-1.0 is not in the range"),
        (["generate", "--batch-chunks", "6"], "6 is not in the range 1<=x<=5"),
        (["generate", "--dataset", "reuters"], "'reuters' is not one of 'cc_news'"),
        (["generate", "--priority", "urgent"], "'urgent' is not one of"),
        (["simulate", "--fault", "429"], "'429' is not KIND=RATE"),
    ],
)
def test_wrong_usage_is_exit_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--input-file", "data.csv", "--model", "caf\udce9"],
        ["plan", "--input-file", "caf\udce9"],
        ["hold", "set", "account", "caf\udce9"],
        ["hold", "release", "caf\udce9"],
        ["--caf\udce9"],
    ],
)
def test_what_is_not_text_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["qaworker", *arguments])
    assert main.main() == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.endswith(
        "caf\\xe9 is not UTF-8: write it so, and rename a file of such a name\n"
    )
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("command", ["generate", "submit"])
@pytest.mark.parametrize(
    "options", [[], ["--dataset", "cc_news", "--input-file", "news.csv"]], ids=["neither", "both"]
)
def test_one_dataset_is_to_be_named(command: str, options: list[str], run: Run) -> None:
    ran = run(command, *options, OPENAI_API_KEY="sk-canary-0123456789")
    assert ran.code == 2
    assert "give either --dataset NAME or --input-file FILE" in ran.err


def test_no_error_shows_a_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConfigError("no answer from redis://user:canary@host/0: correct it")

    monkeypatch.setattr(main.root, "main", fail)
    assert main.main([]) == 78
    assert capsys.readouterr().err == "qaworker: no answer from redis://***@host/0: correct it\n"


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("qaworker, version ")


def test_who_interrupts_while_modules_are_read_sees_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "main", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "qaworker: interrupted\n"
