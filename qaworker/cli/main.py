"""The root command: finds each command's module when it is asked for, and ends errors in one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from typing import Any

import click

from qaworker import translations
from qaworker.cli import interrupts
from qaworker.errors import ExitCode, QAWorkerError

# Name -> what --help says of it; kept here so that help imports no command.
COMMANDS = {
    "cancel": "Remove a run's waiting messages; its outcomes stay.",
    "check": "Check settings, Redis, workers, the API, the disk and the owner.",
    "collect": "Wait for a submitted run and export its pairs.",
    "config": "Show the settings in force.",
    "dead": "List, show, requeue and discard dead letters.",
    "drain": "Let workers finish what they run and take nothing new.",
    "exporter": "Serve metrics to Prometheus.",
    "generate": "Turn a dataset into question/answer pairs.",
    "hold": "List, set and release holds on calls.",
    "monitor": "Look once for what needs somebody, and tell them.",
    "plan": "Show what a dataset will take, before anything is spent.",
    "quickstart": "Show everything at work on the sample corpora.",
    "simulate": "Serve a simulated OpenAI API for demonstrations and tests.",
    "status": "Show Redis, the queues and this host's workers.",
    "submit": "Enqueue a dataset and return.",
    "worker": "Run one worker process.",
    "workers": "List the workers of all hosts.",
}
# Called by scripts and units, not by people: left out of --help.
INNER = ("listen", "service")
# Those of operators speak the language of the locale, from the first complaint about an option on.
TRANSLATED = {"monitor", "service", "status", "workers"}


class LazyGroup(click.Group):
    """Commands are imported when they run: ``qaworker --help`` loads nothing heavy."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002, the signature is click's
        """Their names, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command, imported now, or None."""
        if cmd_name not in COMMANDS and cmd_name not in INNER:
            return None
        if cmd_name in TRANSLATED:
            translations.bind()
        module = importlib.import_module(f"qaworker.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="qaworker")
def root() -> None:
    """Question/answer pairs from datasets, generated on Celery workers."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status is an ExitCode, or what the command returned."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if (shown := _not_text(arguments)) is not None:
        told = f"{shown} is not UTF-8: write it so, and rename a file of such a name"
        print(f"qaworker: {told}", file=sys.stderr)  # noqa: T201, for a person
        return ExitCode.USAGE
    try:
        result: Any = root.main(arguments, prog_name="qaworker", standalone_mode=False)
    except click.exceptions.Abort as error:
        print("qaworker: interrupted", file=sys.stderr)  # noqa: T201, logging is not set up yet
        return interrupts.status_of(error.__cause__ or error.__context__)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except QAWorkerError as error:
        from qaworker.logs import redact  # here, as --help does without structlog

        for line in redact(str(error)).splitlines():
            print(f"qaworker: {line}", file=sys.stderr)  # noqa: T201, for a person
        return int(error.exit_code)
    return int(result or 0)


def _not_text(arguments: Iterable[str]) -> str | None:
    """The first argument that no JSON, database or Redis could take, for a person."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            return os.fsencode(argument).decode(errors="backslashreplace")
    return None
