"""A provider on loopback that answers as told, and texts in both languages."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI

from qaworker.llm.client import build_client
from qaworker.models import Chunk, Language

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], AbstractAsyncContextManager[AsyncOpenAI]]

TEXTS: dict[Language, str] = {
    "en": "The Hollin lighthouse opened in 1893, after eleven years of work on the reef. Its lamp was"
    " turned by a weight that the keepers wound up every four hours.",
    "ja": "灯台は十一年の工事を経て、1893年に岩礁の上に完成した。灯火は重りの力で回り、"
    "灯台守が四時間ごとに巻き上げていた。「眠る暇もない」と日誌にある。",
}
PAIRS: dict[Language, dict[str, str]] = {
    "en": {
        "question": "When did the Hollin lighthouse open?",
        "answer": "It opened in 1893.",
        "question_type": "fact",
        "difficulty": "easy",
        "evidence": "The Hollin lighthouse opened in 1893",
    },
    "ja": {
        "question": "灯台はいつ完成しましたか。",
        "answer": "1893年に完成しました。",
        "question_type": "fact",
        "difficulty": "easy",
        "evidence": "1893年に岩礁の上に完成した。",
    },
}


@pytest.fixture(params=["en", "ja"])
def language(request: pytest.FixtureRequest) -> Language:
    chosen: Language = request.param
    return chosen


@pytest.fixture
def chunk(language: Language) -> Chunk:
    return Chunk(chunk_id="d-0", text=TEXTS[language], language=language, pairs_wanted=3)


@pytest.fixture
def pair(language: Language) -> dict[str, str]:
    """A pair of ``chunk`` as a model writes it."""
    return dict(PAIRS[language])


@pytest.fixture
def completion() -> Callable[..., dict[str, Any]]:
    """Builds the body of a completion from the pairs, or the literal content, of its answer."""

    def build(
        content: list[dict[str, str]] | str | None, finish_reason: str = "stop", **message: object
    ) -> dict[str, Any]:
        if isinstance(content, list):
            content = json.dumps({"pairs": content}, ensure_ascii=False)
        return {
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish_reason,
                    "message": {"role": "assistant", "content": content, **message},
                }
            ],
            "usage": {
                "prompt_tokens": 700,
                "completion_tokens": 120,
                "prompt_tokens_details": {"cached_tokens": 64},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
        }

    return build


@pytest.fixture
def serve() -> Serve:
    """Runs a server with one handler for every path, and gives the client of it."""

    @asynccontextmanager
    async def run(handler: Handler) -> AsyncIterator[AsyncOpenAI]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        client = build_client(
            api_key="sk-canary-0123456789abcdef",
            base_url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1",
            calls_in_flight=200,
            timeout_s=20,
        )
        try:
            yield client
        finally:
            await client.close()
            await runner.cleanup()

    return run


@pytest.fixture
def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
