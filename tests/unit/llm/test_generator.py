from __future__ import annotations

import asyncio
import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiohttp import web

from qaworker import errors
from qaworker.llm.client import build_client
from qaworker.llm.generator import Answer, Generator
from qaworker.models import Chunk, GenerationConfig, Usage

Completion = Callable[..., dict[str, Any]]
CONFIG = GenerationConfig()


async def ask(
    serve: Any,  # the fixture's type lives in conftest, which cannot be imported
    handler: Callable[[web.Request], Any],
    chunks: list[Chunk],
    **options: Any,
) -> Answer:
    async with serve(handler) as client:
        return await Generator(client).ask(chunks, CONFIG, "gpt-5-mini", **options)


def answering(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers=headers)

    return handler


def test_an_answer(serve: Any, chunk: Chunk, pair: dict[str, str], completion: Completion) -> None:
    asked: list[tuple[str, str | None, dict[str, Any]]] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.content_type == "application/json"
        asked.append((request.path, request.headers.get("Authorization"), await request.json()))
        return web.json_response(completion([pair, {**pair, "evidence": "unheard of"}]))

    answer = asyncio.run(ask(serve, handler, [chunk]))
    assert [kept.model_dump() for kept in answer.pairs[0]] == [pair]
    assert answer.dropped == (1,)
    assert answer.missing == ()
    assert answer.usage == Usage(input=700, output=120, cached=64, reasoning=20)
    [(path, authorization, body)] = asked
    assert path == "/v1/chat/completions"
    assert authorization == "Bearer sk-canary-0123456789abcdef"
    assert body["messages"][1]["content"] == f'<chunk pairs="3">\n{chunk.text}\n</chunk>'
    assert body["response_format"]["json_schema"]["strict"] is True


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("", "/chat/completions"),
        ("/", "/chat/completions"),
        ("/v1/..", "/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1#part", "/v1/chat/completions"),
        ("/a%2Fb c", "/a%2Fb%20c/chat/completions"),
    ],
)
def test_every_address_of_an_api_is_called(
    serve: Any, pair: dict[str, str], completion: Completion, chunk: Chunk, base: str, path: str
) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response(completion([pair]))

    async def scenario() -> None:
        async with serve(handler) as client:
            origin = str(client.base_url).removesuffix("/v1/")
            moved = client.with_options(base_url=origin + base)
            await Generator(moved).ask([chunk], CONFIG, "gpt-5-mini")

    asyncio.run(scenario())
    assert asked == [path]


def test_chunks_that_share_a_prompt(
    serve: Any, chunk: Chunk, pair: dict[str, str], completion: Completion
) -> None:
    chunks = [chunk.model_copy(update={"text": "."}), chunk]
    handler = answering(completion([{**pair, "chunk_id": "c2"}]))
    answer = asyncio.run(ask(serve, handler, chunks))
    assert [len(pairs) for pairs in answer.pairs] == [0, 1]
    assert answer.missing == (0,)


def test_an_invalid_answer_tells_what_it_cost(
    serve: Any, chunk: Chunk, completion: Completion
) -> None:
    with pytest.raises(errors.AnswerInvalid) as caught:
        asyncio.run(ask(serve, answering(completion("Sorry, no.")), [chunk]))
    assert caught.value.usage is not None
    assert caught.value.usage.output == 120


def test_a_repair_is_asked_for_in_the_same_prompt(
    serve: Any, chunk: Chunk, pair: dict[str, str], completion: Completion
) -> None:
    async def handler(request: web.Request) -> web.Response:
        said = (await request.json())["messages"][-1]["content"]
        return web.json_response(completion([pair] if "line 1 column 2" in said else "no"))

    answer = asyncio.run(ask(serve, handler, [chunk], repair="Invalid JSON at line 1 column 2"))
    assert len(answer.pairs[0]) == 1


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (429, "rate_limit_exceeded", errors.ProviderThrottled),
        (429, "insufficient_quota", errors.HaltError),
        (401, "invalid_api_key", errors.HaltError),
        (400, "context_length_exceeded", errors.ChunkTooLarge),
        (400, "invalid_prompt", errors.RequestRefused),
        (503, "server_is_overloaded", errors.ProviderUnavailable),
    ],
)
def test_a_refused_call_is_made_once_and_shows_nothing_of_the_request(
    serve: Any, chunk: Chunk, status: int, code: str, expected: type[errors.CallError]
) -> None:
    calls = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal calls
        calls += 1
        said = f"{request.headers['Authorization']} {await request.text()}"
        error = {"message": said, "code": code}
        return web.json_response({"error": error}, status=status, headers={"Retry-After": "2"})

    with pytest.raises(expected) as caught:
        asyncio.run(ask(serve, handler, [chunk]))
    assert calls == 1
    assert type(pickle.loads(pickle.dumps(caught.value))) is expected
    shown = "".join(traceback.format_exception(caught.value))
    assert "canary" not in shown
    assert chunk.text[:20] not in shown
    if isinstance(caught.value, errors.ProviderThrottled):
        assert caught.value.retry_after_s == 2.0


async def reset(request: web.Request) -> web.Response:
    """Drop the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def cut(request: web.Request) -> web.StreamResponse:
    """Promise more than is sent."""
    response = web.StreamResponse(headers={"Content-Length": "9999"})
    await response.prepare(request)
    await response.write(b'{"choices"')
    assert request.transport is not None
    request.transport.close()
    return response


async def garbled(_: web.Request) -> web.Response:
    """Send what is not the gzip it says it is."""
    return web.Response(body=b"not gzip", headers={"Content-Encoding": "gzip"})


async def no_http(request: web.Request) -> web.Response:
    """Speak another protocol."""
    assert request.transport is not None
    request.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    request.transport.close()
    return web.Response()


async def page(_: web.Request) -> web.Response:
    """Answer 200 with the page of a proxy."""
    return web.Response(text="<html>sign in</html>", content_type="text/html")


@pytest.mark.parametrize("handler", [reset, cut, garbled, no_http, page])
def test_a_broken_connection_is_an_unavailable_provider(
    serve: Any, chunk: Chunk, handler: Callable[[web.Request], Any]
) -> None:
    with pytest.raises(errors.ProviderUnavailable):
        asyncio.run(ask(serve, handler, [chunk]))


def test_nobody_listens(chunk: Chunk, unused_port: int) -> None:
    async def run() -> None:
        address = f"http://127.0.0.1:{unused_port}/v1"
        client = build_client(api_key="", base_url=address, calls_in_flight=1, timeout_s=5)
        try:
            await Generator(client).ask([chunk], CONFIG, "m")
        finally:
            await client.close()

    with pytest.raises(errors.ProviderUnavailable, match=str(unused_port)):
        asyncio.run(run())


def test_the_callers_deadline_is_the_callers(serve: Any, chunk: Chunk) -> None:
    async def run() -> None:
        released = asyncio.Event()

        async def handler(_: web.Request) -> web.Response:
            await released.wait()
            return web.Response()

        async with serve(handler) as client:
            try:
                async with asyncio.timeout(0.2):
                    await Generator(client).ask([chunk], CONFIG, "m")
            finally:
                released.set()

    with pytest.raises(TimeoutError):
        asyncio.run(run())
