"""``qaworker exporter`` as a process."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.commands import Run
from tests.support.processes import QAWORKER, Process, child_environment
from tests.support.waiting import wait_until

START_S = 30.0
# It ends at once; the rest is a slow machine.
END_S = 5.0


def port_of(exporter: Process) -> int:
    """Where it serves, once it does."""

    def said() -> list[str]:
        exporter.check_alive()
        return [line for line in exporter.output.splitlines() if "exporter_serves" in line]

    return int(json.loads(wait_until(said, START_S, "the exporter to serve")[0])["port"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_needs_neither_redis_nor_a_key_and_ends_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    env = child_environment(tmp_path, REDIS_URL=f"unix://{tmp_path}/nobody")
    command = [*QAWORKER, "exporter", "--listen", "127.0.0.1:0"]
    with Process(command, log=tmp_path / "log", cwd=tmp_path, env=env) as exporter:
        with urlopen(f"http://127.0.0.1:{port_of(exporter)}/metrics", timeout=START_S) as answer:
            assert b"\nqaworker_broker_up 0.0\n" in answer.read()
        exporter.signal(number)
        assert exporter.wait_exit(END_S) == 0


def test_a_port_that_is_taken_is_a_wrong_setting(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("exporter", QAWORKER_EXPORTER_LISTEN=f"127.0.0.1:{taken.getsockname()[1]}")
    assert ran.code == 78
    assert "in use" in ran.complaint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"QAWORKER_EXPORTER_LISTEN": "9808"}, "QAWORKER_EXPORTER_LISTEN"),
        ({"QAWORKER_EXPORTER_CERT_FILE": "/etc/hostname"}, "QAWORKER_EXPORTER_KEY_FILE"),
        ({"QAWORKER_EXPORTER_CLIENT_CA_FILE": "/etc/hostname"}, "QAWORKER_EXPORTER_CERT_FILE"),
    ],
)
def test_settings_that_do_not_fit(run: Run, settings: dict[str, str], words: str) -> None:
    ran = run("exporter", **settings)
    assert ran.code == 78
    assert words in ran.complaint
