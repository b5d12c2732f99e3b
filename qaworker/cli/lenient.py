"""The settings of commands that look at workers or stop them, which a wrong setting must not prevent."""

from __future__ import annotations

from gettext import gettext as _

import click

from qaworker import settings
from qaworker.logs import redact
from qaworker.settings import Settings


def load() -> Settings:
    """The settings, with the defaults for those that are wrong; a line on standard error says so.

    Raises:
        NotAllowed: this user may not read them.
    """
    values, problem = settings.load_as_far_as_possible()
    if problem is not None:
        text = _("{problem}; until then what is shipped holds").format(problem=redact(str(problem)))
        click.echo(f"qaworker: {text}", err=True)
    return values
