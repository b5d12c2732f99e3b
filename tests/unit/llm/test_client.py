from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from qaworker import errors
from qaworker.llm.client import build_client, check_model, known_models
from qaworker.llm.generator import Generator
from qaworker.models import Chunk, GenerationConfig


@pytest.mark.parametrize(
    "base_url", ["", "127.0.0.1:8000/v1", "localhost", "ftp://host/v1", "http://", "http://a:b/v1"]
)
def test_an_address_that_is_none_is_refused_at_once(base_url: str) -> None:
    with pytest.raises(errors.ConfigError, match="OPENAI_BASE_URL"):
        build_client(api_key="k", base_url=base_url, calls_in_flight=1, timeout_s=1)


@pytest.mark.parametrize("scheme", ["http", "ftp"])
@pytest.mark.parametrize("user", ["canary", "user:canary", ":canary"])
def test_an_address_with_a_user_is_refused_and_not_shown(scheme: str, user: str) -> None:
    base_url = f"{scheme}://{user}@127.0.0.1:9/v1"
    with pytest.raises(errors.ConfigError, match="set OPENAI_API_KEY") as caught:
        build_client(api_key="", base_url=base_url, calls_in_flight=1, timeout_s=1)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("base_url", ["http://user:canary#x@h/v1", "http:user:canary@h/v1"])
def test_an_address_that_is_none_is_not_shown(base_url: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        build_client(api_key="", base_url=base_url, calls_in_flight=1, timeout_s=1)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("api_key", ["sk-ключ", "sk-鍵", "sk-a\nb"])
def test_a_key_no_header_can_carry_is_refused_and_not_shown(api_key: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        build_client(api_key=api_key, base_url="http://h/v1", calls_in_flight=1, timeout_s=1)
    assert api_key not in str(caught.value)


@pytest.mark.parametrize(("given", "sent"), [("sk-key\n", "sk-key"), ("", "none")])
def test_a_key_is_trimmed_and_none_is_needed(given: str, sent: str) -> None:
    client = build_client(api_key=given, base_url="http://h/v1", calls_in_flight=1, timeout_s=1)
    assert client.api_key == sent
    asyncio.run(client.close())


def test_the_client_tries_once_and_outlasts_its_caller() -> None:
    client = build_client(api_key="", base_url="http://h/v1", calls_in_flight=1, timeout_s=100)
    timeout: Any = client.timeout
    assert client.max_retries == 0
    assert timeout.connect == 5.0
    assert 100 < timeout.read <= 120
    asyncio.run(client.close())


def test_as_many_calls_are_in_flight_as_are_asked_for(serve: Any, chunk: Chunk) -> None:
    """More than aiohttp's own limit of 100: the server answers none before all have arrived."""
    calls = 150

    async def run() -> None:
        all_here = asyncio.Event()
        here = 0

        async def handler(_: web.Request) -> web.Response:
            nonlocal here
            here += 1
            if here == calls:
                all_here.set()
            await all_here.wait()
            return web.Response(status=503)

        async with serve(handler) as client, asyncio.timeout(15):
            generator = Generator(client)
            ended = await asyncio.gather(
                *(generator.ask([chunk], GenerationConfig(), "m") for _ in range(calls)),
                return_exceptions=True,
            )
        assert {type(error) for error in ended} == {errors.ProviderUnavailable}

    asyncio.run(run())


async def models(request: web.Request) -> web.Response:
    assert request.path == "/v1/models"
    return web.json_response({"object": "list", "data": [{"id": "gpt-5-mini"}, {"id": "o3"}]})


def test_known_models(serve: Any) -> None:
    async def run() -> frozenset[str]:
        async with serve(models) as client:
            await check_model(client, "o3")
            return await known_models(client)

    assert asyncio.run(run()) == {"gpt-5-mini", "o3"}


def test_an_unknown_model_is_named(serve: Any) -> None:
    async def run() -> None:
        async with serve(models) as client:
            await check_model(client, "gpt-6")

    with pytest.raises(errors.HaltError, match="'gpt-6'"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"error": {"code": "invalid_api_key"}}, errors.HaltError),
        (404, {"detail": "Not Found"}, errors.HaltError),
        (500, {}, errors.ProviderUnavailable),
        (200, {"data": None}, errors.ProviderUnavailable),
        (200, {"data": [{}]}, errors.ProviderUnavailable),
        (200, [], errors.ProviderUnavailable),
    ],
)
def test_a_server_that_lists_no_models(
    serve: Any, status: int, body: object, expected: type[errors.CallError]
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    async def run() -> None:
        async with serve(handler) as client:
            await check_model(client, "m")

    with pytest.raises(expected):
        asyncio.run(run())
