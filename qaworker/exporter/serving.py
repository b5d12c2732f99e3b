"""Serves ``/metrics``, ``/healthz`` and ``/readyz``, over TLS where a certificate is named."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app, start_http_server

from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.exporter.collector import Collector
from qaworker.exporter.looking import Picture
from qaworker.logs import redact

# Whoever connects and says nothing keeps a thread for so long.
PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Tls:
    """The files of a server that proves who it is."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Of those whose certificates let a client in; None lets everybody in."""


@contextmanager
def serving(
    address: tuple[str, int], look: Callable[[], Picture], tls: Tls | None = None
) -> Iterator[int]:
    """Serve in threads while the context is open; yields the port, which 0 in ``address`` leaves open.

    Raises:
        ConfigError: nobody can listen there, or the files of TLS are not of the right kind.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Collector(look))
    files = {} if tls is None else _files(tls)
    host, port = address
    try:
        server, thread = start_http_server(port, host, registry, **files)
    except OSError as error:
        raise ConfigError(f"cannot serve metrics on {host}:{port}: {error.strerror}") from error
    _harden(server)
    server.set_app(_routes(make_wsgi_app(registry), look))
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _files(tls: Tls) -> dict[str, Any]:
    """What prometheus-client calls them, found to be what they should be."""
    for path in filter(None, (tls.certificate, tls.key, tls.client_ca)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: correct it, or its rights") from error
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = f"{tls.certificate} and {tls.key}: not a certificate and its key"
    try:
        trial.load_cert_chain(tls.certificate, tls.key)
        names = f"{tls.client_ca}: no certificates"
        trial.load_verify_locations(tls.client_ca or tls.certificate)
    except ssl.SSLError as error:
        raise ConfigError(f"{names} ({error.reason})") from error
    return {
        "certfile": str(tls.certificate),
        "keyfile": str(tls.key),
        "client_cafile": None if tls.client_ca is None else str(tls.client_ca),
        "client_auth_required": tls.client_ca is not None,
    }


def _harden(server: WSGIServer) -> None:
    """Let nobody who connects and says nothing keep others out, or keep a thread for good."""

    class Handler(server.RequestHandlerClass):  # type: ignore[name-defined,misc]  # a value
        timeout = PATIENCE_S

    server.RequestHandlerClass = Handler
    if isinstance(server.socket, ssl.SSLSocket):
        # Else they are shaken in the one thread that accepts; so, in the thread that answers.
        server.socket.do_handshake_on_connect = False  # type: ignore[attr-defined]  # typeshed leaves it out


def _routes(metrics: Callable[..., Iterable[bytes]], look: Callable[[], Picture]) -> Any:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/healthz":
                status, text = "200 OK", "ok"
            case "/readyz":
                status, text = _readiness(look)
            case _:
                status, text = "404 Not Found", "/metrics, /healthz, /readyz"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    return app


def _readiness(look: Callable[[], Picture]) -> tuple[str, str]:
    try:
        look()
    except StoreUnavailable as error:
        return "503 Service Unavailable", redact(str(error))
    return "200 OK", "ok"
