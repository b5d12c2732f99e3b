from __future__ import annotations

import socket
from pathlib import Path

import pytest

from qaworker.notify import VARIABLE, notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_states_arrive_in_one_datagram(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(5)
        # An empty name lets the kernel choose an abstract one.
        systemd.bind("" if is_abstract else str(tmp_path / "notify"))
        name = systemd.getsockname()
        monkeypatch.setenv(VARIABLE, f"@{name[1:].decode()}" if is_abstract else name)
        notify("READY=1", "STATUS=consuming")
        assert systemd.recv(100) == b"READY=1\nSTATUS=consuming"


@pytest.mark.parametrize("address", ["", "/nowhere/notify"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(VARIABLE, address)
    notify("READY=1")
