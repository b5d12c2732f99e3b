"""The HTTP server: its routes, and the controls that work while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from qaworker.simulator.buckets import Limits
from qaworker.simulator.calls import Calls, Options
from qaworker.simulator.draws import Latency
from qaworker.simulator.faults import FaultRates
from qaworker.simulator.replies import (
    Refused,
    encode,
    invalid,
    model_card,
    no_such_model,
    not_found,
    unauthorized,
)
from qaworker.simulator.requests import json_object

ABOUT = "A simulated OpenAI API. Answers are formed by rule; there is no language model here."
BACKLOG = 4096
"""Connections that may wait to be accepted: a worker opens hundreds at once."""


class Simulator:
    """What answers HTTP requests."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._calls = Calls(options)
        self._stats = self._calls.stats
        self._routes: dict[tuple[str, str], Callable[[bytes], Any]] = {
            ("GET", "/"): lambda _: {"about": ABOUT},
            ("GET", "/v1/models"): self._list_models,
            ("GET", "/stats"): lambda _: self._stats.snapshot(),
            ("POST", "/stats/reset"): self._reset_stats,
            ("POST", "/faults"): self._replace_faults,
            ("POST", "/limits"): self._replace_limits,
            ("POST", "/latency"): self._replace_latency,
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method == "POST" and request.path == "/v1/chat/completions":
            return await self._complete(request)
        try:
            if request.path.startswith("/v1/"):
                self._authorize(request)
            value = self._other(request.method, request.path, await request.read())
        except Refused as refused:
            return refused.reply.response()
        return web.Response(body=encode(value), content_type="application/json")

    async def _complete(self, request: web.BaseRequest) -> web.Response:
        self._stats.requests += 1
        try:
            self._authorize(request)
            response = await self._calls.answer(request)
        except Refused as refused:
            response = refused.reply.response()
        except asyncio.CancelledError:
            self._stats.abandoned += 1
            raise
        if request.transport and not request.transport.is_closing():
            self._stats.answers[response.status] += 1
        return response

    def _authorize(self, request: web.BaseRequest) -> None:
        key = self._options.api_key
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            raise unauthorized("Incorrect API key provided.")

    def _other(self, method: str, path: str, body: bytes) -> object:
        model = path.removeprefix("/v1/models/")
        if method == "GET" and model != path:
            if model not in self._options.models:
                raise no_such_model(model)
            return model_card(model)
        route = self._routes.get((method, path))
        if route is None:
            raise not_found(f"Invalid URL ({method} {path})")
        try:
            return route(body)
        except (ValueError, TypeError) as error:
            raise invalid(str(error)) from error

    def _list_models(self, _body: bytes) -> object:
        return {"object": "list", "data": [model_card(model) for model in self._options.models]}

    def _reset_stats(self, _body: bytes) -> object:
        self._stats.reset()
        return {}

    def _replace_faults(self, body: bytes) -> object:
        faults = FaultRates.of(json_object(body))
        self._calls.set_faults(faults)
        return dict(faults.rates)

    def _replace_limits(self, body: bytes) -> object:
        limits = Limits(**{name: value or 0 for name, value in json_object(body).items()})
        self._calls.set_limits(limits)
        return {"rpm": limits.rpm, "tpm": limits.tpm}

    def _replace_latency(self, body: bytes) -> object:
        latency = self._calls.latency = Latency(**json_object(body))
        return {"mean_s": latency.mean_s, "sigma": latency.sigma}


@contextlib.asynccontextmanager
async def serving(options: Options, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve inside this context, which yields the base URL; port 0 takes a free one.

    Raises:
        OSError: the address cannot be bound.
    """
    # Cancellation tells when a client left: its call is no longer in flight.
    protocol = web.Server(Simulator(options).handle, handler_cancellation=True, access_log=None)
    server = await asyncio.get_running_loop().create_server(protocol, host, port, backlog=BACKLOG)
    try:
        yield f"http://{host}:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await protocol.shutdown(timeout=0)


async def run(options: Options, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is given the base URL.

    Raises:
        OSError: the address cannot be bound.
    """
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with serving(options, host, port) as base_url:
        ready(base_url)
        await stopped.wait()
