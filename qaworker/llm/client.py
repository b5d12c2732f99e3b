"""The client of the API: one for each event loop, shared by all of its calls."""

from __future__ import annotations

from typing import Any, Final

import httpx2
from openai import AsyncOpenAI, DefaultAioHttpClient

from qaworker.errors import ConfigError, HaltError, ProviderUnavailable
from qaworker.llm import faults

Client = AsyncOpenAI
"""The type, for those who may not import openai."""

_CONNECT_TIMEOUT_S: Final = 5.0
# The caller's own deadline ends a call; this one only bounds a call whose caller forgot.
_TIMEOUT_FACTOR: Final = 1.1
# Servers without keys ignore it; the SDK refuses to start with none.
_NO_KEY: Final = "none"


def build_client(
    *, api_key: str, base_url: str, calls_in_flight: int, timeout_s: float
) -> AsyncOpenAI:
    """A client that makes each call once and holds a connection for every call in flight.

    It may be built anywhere; the event loop of its first call is its own. Its retries are off, as
    the limiter must see every attempt and the SDK would repeat billing errors too. The limit of
    connections is stated because aiohttp's own is 100.

    Args:
        api_key: may be empty for a server that asks for none.
        base_url: with scheme and version, as in ``https://api.openai.com/v1``.
        calls_in_flight: calls at the same time.
        timeout_s: the caller's deadline for one call.

    Raises:
        ConfigError: the address or the key cannot be used.
    """
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("OPENAI_API_KEY has characters that no key has: set it again")
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL:
        # What it says may quote a part of a password, and so may its traceback.
        raise ConfigError("OPENAI_BASE_URL is not an address: correct it") from None
    if url.userinfo:
        # The transport refuses it too, but only when the first call is made.
        raise ConfigError("OPENAI_BASE_URL must name no user and no password: set OPENAI_API_KEY")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ConfigError("OPENAI_BASE_URL must be like http://127.0.0.1:8000/v1")
    timeout = httpx2.Timeout(timeout_s * _TIMEOUT_FACTOR, connect=_CONNECT_TIMEOUT_S)
    limits = httpx2.Limits(
        max_connections=calls_in_flight, max_keepalive_connections=calls_in_flight
    )
    return AsyncOpenAI(
        api_key=key or _NO_KEY,
        base_url=base_url,
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(timeout=timeout, limits=limits),
    )


async def known_models(client: AsyncOpenAI) -> frozenset[str]:
    """The models the server offers.

    Raises:
        ProviderUnavailable: it does not answer, or not with a list of models.
        HaltError: the key or the address is refused.
    """
    try:
        response = await client.get("/models", cast_to=httpx2.Response)
    except faults.LIBRARY_ERRORS as error:
        raise faults.translate(error, "", private=[client.api_key]) from None
    try:
        listed: list[dict[str, Any]] = response.json()["data"]
        return frozenset(str(model["id"]) for model in listed)
    except (ValueError, KeyError, TypeError) as error:
        raise ProviderUnavailable("the server answered with something else than models") from error


async def check_model(client: AsyncOpenAI, model: str) -> None:
    """Raise HaltError when the server does not offer ``model``, else as ``known_models``."""
    models = await known_models(client)
    if model not in models:
        raise HaltError(f"the server does not offer the model {model!r}: set QAWORKER_MODEL")
