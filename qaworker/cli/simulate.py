"""``qaworker simulate``: serve a simulated OpenAI API."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from qaworker.errors import ConfigError

RATE = click.FloatRange(min=0)


@click.command("simulate")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port to listen on; 0, the default, takes a free one.",
)
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write the base URL to, once it answers.",
)
@click.option("--latency", type=RATE, default=0.0, help="Mean seconds before an answer.")
@click.option("--sigma", type=RATE, default=0.0, help="Log-normal spread of the latency.")
@click.option("--rpm", type=RATE, default=0.0, help="Strict requests a minute of each model.")
@click.option(
    "--tpm",
    type=RATE,
    default=0.0,
    help="Strict tokens a minute of each model (a token is four bytes here).",
)
@click.option(
    "--fault",
    "faults",
    metavar="KIND=RATE",
    multiple=True,
    help=(
        "Share of calls that meet a fault: 429, 500, 503, quota, auth, timeout, reset, truncated,"
        " malformed, refusal, content_filter or slow. Repeatable."
    ),
)
@click.option("--api-key", default="", help="Key that clients must send.")
@click.option("--seed", type=int, default=0, help="Decides answers, latencies and faults.")
@click.option(
    "--model",
    "models",
    multiple=True,
    help="Model to serve; repeatable. Default: gpt-5-mini and gpt-4o-mini.",
)
def command(  # noqa: PLR0913, PLR0917, one parameter for each option
    host: str,
    port: int,
    ready_file: Path | None,
    latency: float,
    sigma: float,
    rpm: float,
    tpm: float,
    faults: tuple[str, ...],
    api_key: str,
    seed: int,
    models: tuple[str, ...],
) -> None:
    """Serve a simulated OpenAI API for demonstrations and tests.

    It is no language model: answers are formed by rule from the text in the prompt. It serves
    /v1/models and /v1/chat/completions; GET /stats tells what it served. POST changes it while it
    runs: /faults with {"503": 0.5}, /limits with {"rpm": 60, "tpm": 0}, /latency with
    {"mean_s": 2, "sigma": 0}, and /stats/reset.
    """
    from qaworker.simulator import server
    from qaworker.simulator.buckets import Limits
    from qaworker.simulator.calls import DEFAULT_MODELS, Options
    from qaworker.simulator.draws import Latency
    from qaworker.simulator.faults import FaultRates

    try:
        rates = FaultRates.of(dict(_rate(fault) for fault in faults))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--fault") from error
    options = Options(
        models=models or DEFAULT_MODELS,
        api_key=api_key,
        seed=seed,
        latency=Latency(latency, sigma),
        limits=Limits(rpm, tpm),
        faults=rates,
    )

    def ready(base_url: str) -> None:
        if ready_file:
            part = ready_file.with_name(f"{ready_file.name}.part")
            part.write_text(f"{base_url}\n", encoding="utf-8")
            part.replace(ready_file)
        click.echo(f"listening on {base_url}")

    try:
        asyncio.run(server.run(options, host, port, ready))
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --port, or 0"
        ) from error


def _rate(fault: str) -> tuple[str, float]:
    kind, _, rate = fault.partition("=")
    try:
        return kind, float(rate)
    except ValueError as error:
        raise ValueError(f"{fault!r} is not KIND=RATE, such as 429=0.05") from error
