"""Asks a person before what cannot be undone; a script says --yes."""

from __future__ import annotations

import sys
from typing import Any

import click

from qaworker.errors import ExitCode


class NobodyToAsk(click.ClickException):
    """There is no terminal to ask at: give --yes."""

    exit_code = ExitCode.USAGE

    def __init__(self) -> None:
        super().__init__("there is no terminal to ask at: give --yes")

    def show(self, file: Any = None) -> None:
        """One line, as it is no slip in the command line."""
        click.echo(f"qaworker: {self.message}", file=file, err=True)


def is_wanted(question: str) -> bool:
    """What a person answers; raises NobodyToAsk where there is no terminal."""
    if not sys.stdin.isatty():
        raise NobodyToAsk
    return click.confirm(question, err=True)
