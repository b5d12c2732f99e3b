"""``qaworker listen``: what supervisord runs beside the workers, to replace those that hang."""

from __future__ import annotations

import sys

import click

from qaworker import logs
from qaworker.errors import ExitCode
from qaworker.owners.listener import Listener


@click.command("listen")
def command() -> int:
    """Watch the workers of the supervisord that started this; its event listener."""
    logs.configure()
    Listener().listen(sys.stdin, sys.stdout)
    return ExitCode.OK
