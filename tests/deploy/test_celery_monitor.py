"""``bin/celery_monitor.sh`` in an installation, as cron or Nagios runs it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from qaworker.store import fleet, heartbeats
from tests.support.commands import Ran, runner
from tests.support.processes import ROOT, child_environment
from tests.support.waiting import wait_until

Monitor = Callable[..., Ran]
HOST = socket.gethostname()


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A directory with the script, and this Python as its virtual environment."""
    directory = tmp_path / "installation"
    (directory / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "bin" / "celery_monitor.sh", directory / "bin")
    python = directory / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return directory


@pytest.fixture
def monitor(installation: Path, redis_url: str) -> Monitor:
    """Runs the script: ``monitor("--heal", REDIS_URL="…")``."""

    def run(*arguments: str, **env: str) -> Ran:
        done = subprocess.run(
            [installation / "bin" / "celery_monitor.sh", *arguments],
            env=child_environment(installation, **{"REDIS_URL": redis_url, **env}),
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def test_a_look_is_one_line_and_a_line_in_the_log(monitor: Monitor, installation: Path) -> None:
    ran = monitor()
    assert (ran.code, ran.err) == (2, "")
    assert ran.out == "QAWORKER CRITICAL: no worker lives, messages waiting: 0\n"
    lines = (installation / "var" / "log" / "celery_monitor.log").read_text(encoding="utf-8")
    events = [json.loads(line)["event"] for line in lines.splitlines()]
    assert events == ["incident_opened", "looked"]


def test_each_limit_is_an_option(monitor: Monitor, redis_client: Redis) -> None:
    redis_client.rpush("qaw:qa_generation", *["message"] * 3)
    assert monitor("--skip", "workers").code == 0
    ran = monitor("--skip", "workers", "--queue-length", "2")
    assert ran.code == 1
    assert ran.out == "QAWORKER WARNING: messages waiting in qa_generation: 3 (more than 2)\n"


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (("--queue-length", "many"), {}, "many"),
        (("--unknown",), {}, "--unknown"),
        (("--slack", "file:///etc/passwd"), {}, "http"),
        (("--webhook", "@/no/such/file"), {}, "/no/such/file"),
        ((), {"QAWORKER_LOG_DIR": "/proc/log"}, "/proc/log"),
        ((), {"QAWORKER_RUNTIME_DIR": "/proc/run"}, "/proc/run"),
    ],
)
def test_what_cannot_be_done_is_unknown_and_no_alarm(
    monitor: Monitor, arguments: tuple[str, ...], env: dict[str, str], words: str
) -> None:
    ran = monitor(*arguments, **env)
    assert ran.code == 3
    assert words in ran.out + ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("variable", "value"), [("QAWORKER_ENV_FILE", "/no/such/file"), ("QAWORKER_THREADS", "many")]
)
def test_a_wrong_setting_blinds_nobody(monitor: Monitor, variable: str, value: str) -> None:
    ran = monitor(**{variable: value})
    assert (ran.code, ran.out) == (2, "QAWORKER CRITICAL: no worker lives, messages waiting: 0\n")
    assert ran.complaint.startswith(f"qaworker: {variable}: ")


def test_an_address_in_a_file_is_in_no_log(monitor: Monitor, installation: Path) -> None:
    (installation / "hook").write_text("http://127.0.0.1:9/hooks/secret\n", encoding="utf-8")
    ran = monitor("--slack", "@hook")
    assert ran.code == 2
    assert ran.complaint.startswith("qaworker: nobody was told: http://127.0.0.1/…: ")
    log = (installation / "var" / "log" / "celery_monitor.log").read_text(encoding="utf-8")
    assert "notice_not_sent" in log
    assert "secret" not in log


def test_where_nothing_is_installed_it_is_unknown(monitor: Monitor, installation: Path) -> None:
    shutil.rmtree(installation / ".venv")
    ran = monitor()
    assert (ran.code, ran.err) == (3, "")
    assert "not installed" in ran.out


def test_a_look_of_roots_locks_nobody_out(monitor: Monitor, installation: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    var = installation / "var"
    for name in ("run", "log"):
        (var / name).mkdir(parents=True)
        os.chown(var / name, 65533, 65533)
    monitor()
    for path in ("run/monitor.lock", "log/celery_monitor.log"):
        assert (var / path).stat().st_uid == 65533
    # This one is replaced by the next look, whoever's it is.
    assert (var / "run" / "monitor.json").stat().st_mode & 0o004


@pytest.mark.slow
def test_workers_that_are_gone_are_started_through_their_owner(
    monitor: Monitor, installation: Path, redis_client: Redis, redis_url: str
) -> None:
    """After a boot, say: nothing runs, and Redis remembers that one worker was to."""
    fleet.expect(redis_client, HOST, 1)
    env = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    service = runner(installation)
    try:
        ran = monitor("--heal", **env)
        assert ran.code == 2
        assert ran.out.endswith("; starting workers: 1\n")
        [beat] = wait_until(lambda: heartbeats.living(redis_client), 30, "the worker's heartbeat")
        assert beat.owner == "pid"
        assert monitor("--heal", **env).out == (
            "QAWORKER OK: workers consuming: 1 of 1, messages waiting: 0\n"
        )
    finally:
        stopped = service("service", "stop", REDIS_URL=redis_url)
    assert stopped.code == 0, stopped.err
    # Stopped on purpose: no alarm, and nothing to heal.
    ran = monitor("--heal", **env)
    assert (ran.code, ran.out) == (0, "QAWORKER OK: workers consuming: 0, messages waiting: 0\n")
    assert heartbeats.living(redis_client) == []
