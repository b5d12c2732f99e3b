"""``qaworker exporter``: serves the metrics of all workers to Prometheus."""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import Final

import click

from qaworker import logs, settings
from qaworker.errors import ConfigError, ExitCode
from qaworker.exporter.looking import Looking
from qaworker.exporter.serving import Tls, serving
from qaworker.notify import notify
from qaworker.settings import Settings, host_and_port
from qaworker.store.connections import connect

log = logs.get(__name__)

# A scrape waits ten seconds by default; a Redis that is well takes milliseconds.
REDIS_TIMEOUT_S: Final = 2.0


@click.command("exporter")
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where to serve.  [default: QAWORKER_EXPORTER_LISTEN]",
)
def command(listen: str | None) -> int:
    """Serve /metrics, /healthz and /readyz until it is told to stop.

    One is enough for all hosts that share a Redis. It asks Redis when it is asked, and no worker;
    while Redis is away it says so. TERM ends it.
    """
    values = settings.load()
    logs.configure(values.log_level, values.log_format)
    try:
        address = host_and_port(listen or values.exporter_listen)
    except ValueError as error:
        raise ConfigError(f"--listen {error}") from error
    tls = _tls(values)
    redis = connect(values.redis_url, timeout_s=REDIS_TIMEOUT_S)
    broker = connect(values.broker_url, timeout_s=REDIS_TIMEOUT_S) if values.broker_url else redis
    looking = Looking(redis, broker, keep=timedelta(days=values.outcome_days))
    # Before the threads begin, which are not to take them.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with redis, broker, serving(address, looking, tls) as port:
        log.info("exporter_serves", host=address[0], port=port, tls=tls is not None)
        notify("READY=1")
        signal.sigwait(ends)
        notify("STOPPING=1")
    return ExitCode.OK


def _tls(values: Settings) -> Tls | None:
    certificate, key = values.exporter_cert_file, values.exporter_key_file
    client_ca = values.exporter_client_ca_file
    if certificate is not None and key is not None:
        return Tls(certificate, key, client_ca)
    if certificate is None and key is None and client_ca is None:
        return None
    raise ConfigError(
        "TLS takes both QAWORKER_EXPORTER_CERT_FILE and QAWORKER_EXPORTER_KEY_FILE: set the other one"
    )
