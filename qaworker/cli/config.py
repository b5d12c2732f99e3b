"""``qaworker config``: the settings in force, without secrets."""

from __future__ import annotations

import json

import click

from qaworker import settings
from qaworker.app import configuration
from qaworker.errors import ExitCode


@click.command("config")
@click.option("--check", is_flag=True, help="Only say whether a worker could start with them.")
@click.option("--markdown", is_flag=True, help="Print what there is to set, as in the README.")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def command(*, check: bool, markdown: bool, as_json: bool) -> int:
    """Show the settings in force, one variable a line, secrets as ***."""
    if markdown:
        click.echo(settings.Settings.table())
        return ExitCode.OK
    values = settings.load()
    configuration(values)
    if check:
        values.require_api_key()
        click.echo("the settings are valid")
        return ExitCode.OK
    shown = values.shown()
    if as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        for name, value in shown.items():
            click.echo(f"{name}={value}")
    return ExitCode.OK
