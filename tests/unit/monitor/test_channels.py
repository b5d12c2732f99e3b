"""Messages as channels take them, and channels that cannot."""

from __future__ import annotations

import socket
import threading
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from qaworker.monitor.channels import Mail, Message, NotSent, Webhook
from qaworker.monitor.incidents import Notice

MESSAGE = Message(
    "here", [Notice("redis", "opened", "critical", "Redis is\naway:\r\n gone", 1.0, None)]
)


def test_a_subject_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "sendmail"
    program.write_text(f"#!/bin/sh\ncat >{tmp_path}/mail\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    Mail("ops@example.org").send(MESSAGE)
    mail = message_from_bytes((tmp_path / "mail").read_bytes(), policy=policy.default)
    assert mail["Subject"] == "[qaworker] here: CRITICAL: Redis is away: gone"


def test_an_address_that_cannot_be_one_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sendmail").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotSent, match="ops"):
        Mail("ops@example.org\nBcc: all@example.org").send(MESSAGE)


def test_what_is_no_web_server_did_not_take_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(NotSent, match=r"127\.0\.0\.1"):
            Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/").send(MESSAGE)
        thread.join()
