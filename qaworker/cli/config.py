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
@click.option("--get", "name", metavar="NAME", help="Print the value of one variable, for scripts.")
def command(*, check: bool, markdown: bool, as_json: bool, name: str | None) -> int:
    """Show the settings in force, one variable a line, secrets as ***."""
    if markdown:
        click.echo(settings.Settings.table())
        return ExitCode.OK
    values = settings.load()
    configuration(values)
    if check:
        values.require_api_key()
        for misspelt in settings.misspelt():
            click.echo(f"qaworker: {misspelt} is no setting: see `qaworker config`", err=True)
        click.echo("the settings are valid")
        return ExitCode.OK
    shown = values.shown()
    if name is not None:
        # What owners grant a stop follows from the hard limit; it is no variable of its own.
        derived = shown | {"QAWORKER_STOP_TIMEOUT_S": f"{values.stop_timeout_s:g}"}
        if name not in derived:
            raise click.UsageError(f"there is no variable {name}: see `qaworker config`")
        click.echo(derived[name])
    elif as_json:
        click.echo(json.dumps(shown, indent=2))
    else:
        for variable, value in shown.items():
            click.echo(f"{variable}={value}")
    return ExitCode.OK
