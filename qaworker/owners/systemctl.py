"""Calls systemd's programs, with time limits and our errors."""

from __future__ import annotations

import os
import re
import subprocess
from gettext import gettext as _
from typing import Final

from qaworker.errors import NotAllowed, OwnerError

_ANSWER_S: Final = 5.0
_DENIED: Final = re.compile(
    r"access denied|authentication required|permission denied", re.IGNORECASE
)


def show(unit: str, *properties: str) -> list[dict[str, str]]:
    """Properties of the units of that name or pattern, a dictionary for each; raises as :func:`run`."""
    text = systemctl("show", f"--property={','.join(properties)}", unit)
    blocks = [block for block in text.split("\n\n") if block.strip()]
    return [dict(line.split("=", 1) for line in block.strip().splitlines()) for block in blocks]


def systemctl(*arguments: str) -> str:
    """What ``systemctl`` says; raises as :func:`run`."""
    return run("systemctl", "--no-ask-password", *arguments)


def run(*command: str) -> str:
    """What a program of systemd writes to standard output, in English.

    Raises:
        NotAllowed: it wants root.
        OwnerError: it is not installed, does not answer, or failed.
    """
    try:
        ran = subprocess.run(  # noqa: S603, programs of systemd
            command,
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise OwnerError(_("there is no {program} here").format(program=command[0])) from error
    except subprocess.TimeoutExpired as error:
        raise OwnerError(_("{program} does not answer").format(program=command[0])) from error
    if ran.returncode != 0:
        if _DENIED.search(ran.stderr):
            raise NotAllowed(_("systemd owns the workers, and wants root for this: use sudo"))
        lines = ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"]
        raise OwnerError(f"{command[0]}: {lines[0]}")
    return ran.stdout
