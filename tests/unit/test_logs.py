"""Logging configures a whole process, so each test looks at the log of one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qaworker.logs import redact
from tests.support.processes import child_environment

CANARIES = [
    "sk-canary0123456789",
    "sk-proj-canary_01234-56789",
    "sk_live_canary0123456789",
    "Bearer canary0123456789",
    "redis://user:canary@127.0.0.1:6379/0",
    "rediss://:canary@host:6380",
    "https://user:canary@proxy.example:3128",
    "https://canary@proxy.example:3128",
    "redis://user:can@ry/ca#canary@host:6379/0",
    "'ftp://user:canary@host/v1'",
    "redis://host:6379/0?password=canary",
    "unix:///run/redis.sock?db=0&password=c@canary",
    "rediss://host:6379/0?ssl_password=canary&db=1",
    "unix:///run/redis.sock?username=canary&db=1",
]
HARMLESS = [
    "the task-queue is empty",
    "risk-free and desk-bound",
    "unix:///run/redis.sock",
    "redis://127.0.0.1:6379/0",
    "unix:///run/redis.sock?db=1",
    "the password= of user@host",
    "qa_worker-1@host: ready",
    "サーバー https://host/道 は user@host に応答しない",
]
# Ways in which a text comes into a log.
WAYS = {
    "field": "log.info('event', value=CANARY)",
    "event": "log.info(CANARY)",
    "bound": "structlog.contextvars.bind_contextvars(value=CANARY); log.info('event')",
    "list": "log.info('event', value=[CANARY])",
    "dictionary": "log.info('event', value={'deep': {'er': CANARY}})",
    "object": "log.info('event', value=ValueError(CANARY))",
    "library": "logging.getLogger('library').warning('says %s', CANARY)",
    "extra": "logging.getLogger('library').warning('says', extra={'value': CANARY})",
    "exception": "raise_it('except ValueError: log.exception(\"event\")')",
    "library exception": "raise_it('except ValueError: logging.exception(\"event\")')",
    "warning": "warnings.warn(CANARY)",
}
PREPARED = """
import logging, sys, warnings
import structlog
from qaworker import logs
CANARY, log_format = sys.argv[1:3]
logs.configure("info", log_format)
log = logs.get("qaworker.test")
def raise_it(caught):
    exec("try:\\n  raise ValueError(CANARY)\\n" + caught)
"""


def logged(code: str, home: Path, canary: str = "", log_format: str = "json") -> str:
    """What a process that runs ``code`` writes to standard error."""
    ran = subprocess.run(
        [sys.executable, "-c", PREPARED + code, canary, log_format],
        env=child_environment(home),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert ran.stdout == ""
    return ran.stderr


def events(code: str, home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(code, home).splitlines()]


@pytest.mark.parametrize("canary", CANARIES)
def test_what_looks_like_a_secret_is_redacted(canary: str) -> None:
    redacted = redact(f"before {canary} after")
    assert "canary" not in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("canary", ["sk-proj-canary_01234-56789", "redis://user:canary@host/0"])
def test_no_secret_comes_into_a_log_whichever_way(
    canary: str, log_format: str, tmp_path: Path
) -> None:
    code = "\n".join(WAYS.values())
    text = logged(code, tmp_path, canary, log_format)
    assert "canary" not in text
    assert text.count("***") >= len(WAYS)


def test_a_line_is_one_json_object_with_what_is_bound(tmp_path: Path) -> None:
    [event] = events(
        "structlog.contextvars.bind_contextvars(run='r1', task='t1')\n"
        "log.info('chunk_dead', reason='invalid', text='灯台')",
        tmp_path,
    )
    timestamp = event.pop("timestamp")
    assert timestamp.endswith("Z")
    assert event == {
        "event": "chunk_dead",
        "level": "info",
        "logger": "qaworker.test",
        "run": "r1",
        "task": "t1",
        "reason": "invalid",
        "text": "灯台",
    }


def test_japanese_is_written_as_it_is(tmp_path: Path) -> None:
    assert "灯台" in logged("log.info('event', text='灯台')", tmp_path)


def test_a_traceback_stays_on_its_line(tmp_path: Path) -> None:
    [event] = events("raise_it('except ValueError: log.exception(\"failed\")')", tmp_path)
    assert event["event"] == "failed"
    assert "ValueError" in event["exception"]


def test_what_celery_adds_of_a_task_is_left_out(tmp_path: Path) -> None:
    """Its records carry the task's arguments: the texts of chunks."""
    code = "logging.getLogger('celery').info('Task received', extra={'data': {'args': '本文'}})"
    [event] = events(code, tmp_path)
    assert event["event"] == "Task received"
    assert "本文" not in json.dumps(event, ensure_ascii=False)


def test_libraries_that_log_every_request_are_quiet(tmp_path: Path) -> None:
    code = "\n".join(
        f"logging.getLogger({name!r}).info('HTTP Request')"
        for name in ("httpx2", "openai", "aiohttp.access", "kombu")
    )
    assert logged(code, tmp_path) == ""


def test_less_than_the_level_is_not_logged(tmp_path: Path) -> None:
    code = "logs.configure('warning', 'json'); log.info('no'); log.warning('yes')"
    assert [event["event"] for event in events(code, tmp_path)] == ["yes"]


def test_without_a_terminal_the_log_is_json(tmp_path: Path) -> None:
    text = logged("log.info('event')", tmp_path, log_format="auto")
    assert json.loads(text)["event"] == "event"
