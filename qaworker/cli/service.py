"""``qaworker service``: what bin/start_celery.sh and the units of systemd run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from gettext import gettext as _
from typing import Any, Final

import click
from click.core import ParameterSource

from qaworker import logs, settings, translations
from qaworker.cli import lenient
from qaworker.cli.table import show
from qaworker.errors import ExitCode, QAWorkerError
from qaworker.owners.owner import OwnerName

# Action -> the options that say something to it.
TAKES: Final[dict[str, frozenset[str]]] = {
    "start": frozenset({"workers", "log_level", "via", "timeout_s"}),
    "stop": frozenset({"via", "timeout_s", "force"}),
    "restart": frozenset({"workers", "log_level", "via", "timeout_s"}),
    "status": frozenset({"as_json"}),
    "announce": frozenset(),
    "withdraw": frozenset(),
}
# Must end workers that run, however wrong the settings have become since.
WHATEVER_IS_SET: Final = frozenset({"stop", "withdraw"})
# A slip of the finger starts no ten thousand processes.
MOST_WORKERS: Final = 256
LONGEST_S: Final = 86_400


class _Complaint(click.ClickException):
    """One line on standard error, and an exit code."""

    def __init__(self, name: str, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it so, and reads the instance
        self._name = name

    def show(self, file: Any = None) -> None:
        click.echo(f"{self._name}: {logs.redact(self.message)}", file=file, err=True)


class _Terse(click.Command):
    """A command that complains in one line: it is read in a journal, or at night."""

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **more: Any,
    ) -> click.Context:
        with _complaints(parent, info_name):
            return super().make_context(info_name, args, parent, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _complaints(ctx.parent, ctx.info_name):
            return super().invoke(ctx)


@contextmanager
def _complaints(parent: click.Context | None, info_name: str | None) -> Iterator[None]:
    name = f"{parent.info_name} {info_name}" if parent else str(info_name)
    try:
        yield
    except click.UsageError as error:
        problem = " ".join(error.format_message().split())
        more = _("{problem} (-h shows what there is)").format(problem=problem)
        raise _Complaint(name, more, error.exit_code) from error
    except QAWorkerError as error:
        raise _Complaint(name, str(error), error.exit_code) from error


@click.command("service", cls=_Terse, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("action", default="", metavar="start|stop|restart|status")
@click.option(
    "-w",
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    metavar="N",
    help="start, restart: how many worker processes.  [default: as many as run or ran last, else 4]",
)
@click.option(
    "-l",
    "--loglevel",
    "log_level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="start, restart: least level that workers started now log.  [default: QAWORKER_LOG_LEVEL]",
)
@click.option(
    "--via",
    type=click.Choice(["systemd", "supervisor", "pid"]),
    help="Who is to own the workers.  [default: who has them, else who is installed, else pid]",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(0, LONGEST_S),
    metavar="S",
    help="start, restart: seconds for a worker to consume [default: 60]; stop: until it is"
    " ended by force [default: 30 more than QAWORKER_TASK_HARD_LIMIT_S].",
)
@click.option(
    "--force",
    is_flag=True,
    help="stop: list what carries the mark of this installation, then end it at once, orphans"
    " too. It takes the place of `pkill -9 -f celery`, and touches nobody else's workers.",
)
@click.option("--json", "as_json", is_flag=True, help="status: print it as JSON.")
@click.pass_context
def command(  # noqa: PLR0913, one for each option
    ctx: click.Context,
    *,
    action: str,
    workers: int | None,
    log_level: str | None,
    via: OwnerName | None,
    timeout_s: int | None,
    force: bool,
    as_json: bool,
) -> int:
    """Start, stop, replace or show the worker processes of this host.

    They are owned by systemd, by supervisord, or, without either, by PID files; whoever is in charge
    is found, and a second one is refused. restart replaces one worker after the other. A stop loses
    no work.

    Exit codes: 0 done; 1 not all workers do what was asked; 2 the command line is wrong; 75 Redis is
    away, or another start or stop is at work; 77 it takes root; 78 a setting is wrong. status: 0
    running, 1 degraded, 3 stopped, 4 unknown.
    """
    if action not in TAKES:
        raise click.UsageError(_("say start, stop, restart or status"))
    _refuse_what_says_nothing(ctx, action)
    if action == "status":
        from qaworker.cli import status  # it answers in less time than the rest takes to import

        return int(status.command.main(["--json"] * as_json, standalone_mode=False))
    from qaworker import service
    from qaworker.owners import expecting

    values = lenient.load() if action in WHATEVER_IS_SET else settings.load()
    logs.configure("error", values.log_format)
    wish = service.Wish(
        via, workers, log_level, service.START_TIMEOUT_S if timeout_s is None else timeout_s
    )
    match action:
        case "start":
            service.start(values, wish, show)
        case "restart":
            service.restart(values, wish, show)
        case "stop" if force:
            service.sweep(values, show)
        case "stop":
            service.stop(values, via, timeout_s, show)
        case "announce":
            service.announce(values)
        case "withdraw":
            expecting.withdraw(values)
    return ExitCode.OK


def _refuse_what_says_nothing(ctx: click.Context, action: str) -> None:
    given = {
        str(parameter.name): parameter.opts[-1]
        for parameter in ctx.command.params
        if isinstance(parameter, click.Option)
        and ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    }
    if nothing := sorted(given.keys() - TAKES[action]):
        raise click.UsageError(
            _("{option} is not for {action}").format(option=given[nothing[0]], action=action)
        )
    if "force" in given and len(given) > 1:
        raise click.UsageError(_("--force takes no other option"))


def main() -> int:
    """``start_celery.sh``, under its own name."""
    translations.bind()
    try:
        result: Any = command.main(prog_name="start_celery.sh", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo(_("start_celery.sh: interrupted"), err=True)
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return int(result or 0)


if __name__ == "__main__":
    sys.exit(main())
