"""``qaworker monitor``: one look, from cron or a timer; a plugin of Nagios and its likes."""

from __future__ import annotations

from collections.abc import Sequence
from gettext import gettext as _
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from qaworker import logs
from qaworker.cli import lenient
from qaworker.cli.table import show
from qaworker.errors import QAWorkerError
from qaworker.monitor import healing
from qaworker.monitor.channels import Channel, Mail, Slack, Webhook
from qaworker.monitor.judging import CHECKS, Limits
from qaworker.monitor.looking import UNKNOWN, look
from qaworker.owners.files import open_log

LOG_NAME: Final = "celery_monitor.log"
_DEFAULT: Final = Limits()


class Address(click.ParamType[str]):
    """``http(s)://…``, or ``@FILE`` that holds it: the arguments of a process are no secret."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address."""
        url = value
        if value.startswith("@"):
            try:
                url = Path(value[1:]).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeError) as error:
                self.fail(f"{value[1:]}: {getattr(error, 'strerror', None) or error}", param, ctx)
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            problem = _("must be http://… or https://…, or @ and a file that holds it")
            self.fail(problem, param, ctx)
        return url


class WrongUsage(click.UsageError):
    """No alarm: 2, as elsewhere, would be CRITICAL."""

    exit_code = UNKNOWN


class Plugin(click.Command):
    """A command that says wrong usage in the exit codes of Nagios."""

    def make_context(self, *arguments: Any, **named: Any) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(*arguments, **named)
        except click.UsageError as error:
            raise WrongUsage(error.format_message(), error.ctx) from error


@click.command("monitor", cls=Plugin)
@click.option(
    "--queue-length",
    default=_DEFAULT.queue_length,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="More messages than this that wait in a queue are a problem.",
)
@click.option(
    "--message-age",
    "message_age_s",
    default=_DEFAULT.message_age_s,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="So is a message that waits for longer.",
)
@click.option(
    "--heartbeat-age",
    "heartbeat_age_s",
    default=_DEFAULT.heartbeat_age_s,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="So is a worker that has given no sign of life for longer.",
)
@click.option(
    "--call-wait",
    "call_wait_s",
    default=_DEFAULT.call_wait_s,
    show_default=True,
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="So is a call that waits for the limiter for longer.",
)
@click.option(
    "--dead-letters",
    default=_DEFAULT.dead_letters,
    show_default=True,
    type=click.IntRange(0),
    metavar="N",
    help="So are more chunks than this that died within the last hour.",
)
@click.option(
    "--skip",
    multiple=True,
    type=click.Choice(list(CHECKS)),
    help="Leave a check out; may be repeated.",
)
@click.option("--mail", multiple=True, metavar="ADDRESS", help="Tell a mailbox, through sendmail.")
@click.option("--slack", multiple=True, type=Address(), help="Tell Slack: its webhook, or @FILE.")
@click.option("--webhook", multiple=True, type=Address(), help="Post JSON: to a URL, or @FILE.")
@click.option(
    "--heal",
    is_flag=True,
    help="Start this host's workers when all are gone and nobody stopped them, at most"
    f" {healing.MOST_STARTS} times an hour. Under systemd it takes root, and systemd does so itself.",
)
def command(
    *,
    skip: Sequence[str],
    mail: Sequence[str],
    slack: Sequence[str],
    webhook: Sequence[str],
    heal: bool,
    **limits: Any,
) -> int:
    """Look once for what needs somebody, and tell them: once, and again when it is over.

    Of fewer workers than are to run, of workers that are all quiet, and of calls that wait for the
    limiter, it tells at the second look in a row: somebody may be at work on it, or it may pass.

    Writes one line, and QAWORKER_LOG_DIR/celery_monitor.log. Exit status, as Nagios wants it:
    0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    """
    channels: list[Channel] = [*map(Mail, mail), *map(Slack, slack), *map(Webhook, webhook)]
    names = frozenset(CHECKS) - set(skip)
    # To standard error, until its file is open.
    logs.configure()
    try:
        values = lenient.load()
        logs.configure("info", values.log_format, open_log(values.log_dir / LOG_NAME))
        report = look(values, Limits(**limits), names, channels, heal=heal)
    except QAWorkerError as error:
        return _unknown(str(error))
    except Exception as error:  # noqa: BLE001, Python's own exit code would be a warning to Nagios
        logs.get(__name__).exception("look_failed")
        return _unknown(f"{type(error).__name__}: {error}")
    show(report.line)
    for trouble in report.troubles:
        click.echo(f"qaworker: {logs.redact(trouble)}", err=True)
    return report.code


def _unknown(reason: str) -> int:
    show(f"QAWORKER UNKNOWN: {logs.redact(' '.join(reason.split()))}")
    return UNKNOWN
