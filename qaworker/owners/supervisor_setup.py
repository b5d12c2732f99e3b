"""How supervisord is started for our workers, and the programs it is told to run."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from configparser import RawConfigParser
from gettext import gettext as _
from pathlib import Path
from typing import Final

from qaworker.errors import OwnerError
from qaworker.owners.supervisor_rpc import PREFIX

# Tells a supervisord that was started here, and ends with its workers, from one that was there.
IDENTIFIER: Final = "qaworker"
# The program whose processes are as many as supervisord was told to start with.
_TOGETHER: Final = "program:qa-celery"


def seconds(duration_s: float) -> str:
    """A time limit as supervisord takes it: whole seconds."""
    return str(math.ceil(duration_s))


def programs(workers: int, log_level: str | None, stop_timeout_s: float) -> str:
    """A program for each worker, made of the shipped one, and none whose processes are together.

    Raises:
        OwnerError: the shipped configuration is not there.
    """
    shipped = RawConfigParser()
    shipped.read(_configuration(), encoding="utf-8")
    options = dict(shipped[_TOGETHER])
    options["numprocs"] = "1"
    options["stopwaitsecs"] = seconds(stop_timeout_s)
    if log_level is not None:
        options["command"] += f" -l {log_level}"
    each = RawConfigParser()
    each[_TOGETHER] = {"numprocs": "0"}
    for number in range(1, workers + 1):
        each[f"program:{PREFIX}{number}"] = options | {"numprocs_start": str(number)}
    text = io.StringIO()
    text.write("; Written by `start_celery.sh start`, in effect until `stop`.\n")
    each.write(text)
    return text.getvalue()


def launch(environment: Mapping[str, str], *, timeout_s: float) -> None:
    """Start supervisord; it answers when this returns, and lives on when this process ends.

    Args:
        environment: what the configuration refers to; the rest is this process's own.
        timeout_s: for it to listen.

    Raises:
        OwnerError: it did not start.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()])
    try:
        # It returns when its daemon listens, or with the reason why it does not.
        done = subprocess.run(  # noqa: S603, our own command
            [
                *(sys.executable, "-m", "supervisor.supervisord", "--identifier", IDENTIFIER),
                *("--configuration", str(_configuration())),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": path} | dict(environment),
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OwnerError(_("supervisord did not start in time: see its log")) from error
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        reasons = [line for line in lines if line.startswith("Error")] or lines or [""]
        raise OwnerError(_("supervisord did not start: {reason}").format(reason=reasons[-1]))


def _configuration() -> Path:
    """``deploy/supervisord.conf``: of the checkout, or beside the virtual environment installed.

    Raises:
        OwnerError: there is none.
    """
    for root in (Path(__file__).parents[2], Path(sys.prefix).parent):
        if (path := root / "deploy" / "supervisord.conf").exists():
            return path
    raise OwnerError(_("deploy/supervisord.conf is not installed here: use another --via"))
