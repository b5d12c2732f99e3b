"""Tells systemd how a service is, where systemd wants to know: sd_notify(3) without its library."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"


def notify(*states: str) -> None:
    """Send assignments such as ``READY=1``; without systemd, or when it is gone, do nothing."""
    address = os.environ.get(VARIABLE, "")
    if not address:
        return
    # A leading @ stands for the null byte of an abstract socket.
    target = f"\0{address[1:]}" if address.startswith("@") else address
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.sendto("\n".join(states).encode(), target)
