"""What start_celery.sh says of a command line and an environment that are wrong: one line, and a code."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

from qaworker import logs, translations
from qaworker.cli import main as cli
from qaworker.cli import service


@pytest.fixture(autouse=True)
def _installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories of its own, and no Redis."""
    # They hold for a process, which other tests share.
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(translations, "bind", lambda: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/redis.sock")
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("QAWORKER_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("QAWORKER_LOG_DIR", str(tmp_path))


def start_celery(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str]:
    """The exit code and the one line on standard error."""
    monkeypatch.setattr(sys, "argv", ["service.py", *arguments])
    code = service.main()
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("start_celery.sh: ")
    return code, line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say start, stop, restart or status"),
        (["fly"], "say start, stop, restart or status"),
        (["start", "-w", "0"], "0 is not in the range"),
        (["start", "-w", "abc"], "'abc' is not a valid integer"),
        (["start", "-w", "257"], "257 is not in the range"),
        (["start", "-w"], "requires an argument"),
        (["start", "--frobnicate"], "--frobnicate"),
        (["start", "-l", "loud"], "'loud' is not one of"),
        (["start", "--via", "cron"], "'cron' is not one of"),
        (["start", "--timeout", "-1"], "-1 is not in the range"),
        (["start", "now"], "unexpected extra argument"),
        (["start", "--force"], "--force is not for start"),
        (["stop", "-w", "2"], "--workers is not for stop"),
        (["stop", "--force", "--timeout", "5"], "--force takes no other option"),
        (["status", "-l", "info"], "--loglevel is not for status"),
    ],
)
def test_a_wrong_command_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    code, line = start_celery(capsys, monkeypatch, *arguments)
    assert code == 2
    assert words in line


@pytest.mark.parametrize(
    ("variable", "value", "code", "words"),
    [
        ("QAWORKER_ENV_FILE", "gone.env", 78, "QAWORKER_ENV_FILE: gone.env"),
        ("OPENAI_API_KEY_FILE", "gone", 78, "OPENAI_API_KEY_FILE: gone"),
        ("QAWORKER_POOL", "eventlet", 78, "QAWORKER_POOL"),
        ("REDIS_URL", "http://127.0.0.1", 78, "REDIS_URL"),
        ("REDIS_URL", "redis://someone:secret@127.0.0.1:1/0", 75, "redis://***@127.0.0.1:1/0"),
        ("QAWORKER_RUNTIME_DIR", "/dev/null/run", 1, "/dev/null/run"),
    ],
)
def test_a_wrong_environment(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "" if variable == "OPENAI_API_KEY_FILE" else "test-key")
    monkeypatch.setenv(variable, value)
    found, line = start_celery(capsys, monkeypatch, "start")
    assert found == code
    assert words in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QAWORKER_ENV_FILE", "gone.env"),
        ("QAWORKER_POOL", "eventlet"),
        ("QAWORKER_TASK_SOFT_LIMIT_S", "900"),
        ("REDIS_URL", "http://127.0.0.1"),
    ],
)
@pytest.mark.parametrize("arguments", [("stop",), ("stop", "--force"), ("status",)])
def test_a_wrong_setting_locks_nobody_out(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["service.py", *arguments])
    assert service.main() == (3 if arguments == ("status",) else 0)
    said = capsys.readouterr()
    assert value in said.err or variable in said.out + said.err


@pytest.mark.parametrize("action", ["start", "stop", "restart"])
def test_one_command_at_a_time(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    action: str,
) -> None:
    lock = tmp_path / "service.lock"
    lock.write_text("start, process 4711")
    with lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, line = start_celery(capsys, monkeypatch, action)
    assert code == 75
    assert "start, process 4711" in line


def test_the_units_call_it_by_its_other_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["service", "announce", "-w", "1"]) == 2
    assert capsys.readouterr().err.startswith("qaworker service: --workers is not for announce")


def test_help_says_what_takes_the_place_of_pkill(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["service.py", "-h"])
    assert service.main() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "pkill -9 -f celery" in said
    assert said.startswith("Usage: start_celery.sh [OPTIONS] start|stop|restart|status")
