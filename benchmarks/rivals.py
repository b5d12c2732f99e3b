"""Other ways to keep a rate limit, to be measured beside ours: two processes have half of it each.

``cookbook`` is how OpenAI's `api_request_parallel_processor.py` works: a bucket of its own that holds a
minute's capacity and is full at the beginning; the prompt and the whole output cap are taken out of it
and never given back; a request has five attempts. Its pause of 15 s after a 429 is left out, as it never
comes: the script looks for another code than the API's. It has the 100 connections of its library, or as
many more as the limit needs.
``retry-only`` is what OpenAI's guide to rate limits recommends: no bucket, and after a 429 a random wait
that grows from 1 to 60 s; a request has six attempts. It has 512 calls in flight, as one of our workers.

Answers are thrown away unread. Each request that is given up is a line of output.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import random
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import ClientSession, TCPConnector

from qaworker.llm.request import request_body
from qaworker.models import Chunk, GenerationConfig
from qaworker.simulator.replies import count_tokens

LOOP_S = 0.001
ATTEMPTS = {"cookbook": 5, "retry-only": 6}


@dataclass(slots=True)
class Request:
    """One chunk's request, and what it takes of the limit: prompt and output cap."""

    body: bytes
    tokens: int
    attempts_left: int


def requests(dataset: Path, half: int, model: str, attempts: int) -> Iterator[Request]:
    """Every second chunk of a dataset, over and over."""
    config = GenerationConfig()
    lines = dataset.read_text(encoding="utf-8").splitlines()[half::2]
    for turn in itertools.count():
        for row in map(json.loads, lines):
            text = f"{row['text']} {turn}"
            chunk = Chunk(chunk_id=row["id"], text=text, language="en", pairs_wanted=3)
            body = request_body([chunk], config, model)
            prompt = sum(count_tokens(message["content"]) for message in body["messages"])
            tokens = prompt + body["max_completion_tokens"]
            yield Request(json.dumps(body).encode(), tokens, attempts)


class Api:
    """Makes one call at a time of a request."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session
        self._url = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"

    async def answers(self, request: Request) -> bool:
        """Whether this attempt was answered; the last that was not is a failure."""
        request.attempts_left -= 1
        headers = {"Content-Type": "application/json"}
        async with self._session.post(self._url, data=request.body, headers=headers) as response:
            await response.read()
        if response.status != 200 and not request.attempts_left:  # noqa: PLR2004, HTTP's
            print("given up", flush=True)
        return response.status == 200  # noqa: PLR2004, likewise


async def cookbook(api: Api, waiting: Iterator[Request], rpm: float, tpm: float) -> None:
    """Call whenever the bucket has a request and its tokens."""
    again: deque[Request] = deque()

    async def call(request: Request) -> None:
        if not await api.answers(request) and request.attempts_left:
            again.append(request)

    requests_left, tokens_left = rpm, tpm
    updated = time.monotonic()
    following = next(waiting)
    async with asyncio.TaskGroup() as calls:
        while True:
            now = time.monotonic()
            requests_left = min(rpm, requests_left + rpm * (now - updated) / 60)
            tokens_left = min(tpm, tokens_left + tpm * (now - updated) / 60)
            updated = now
            if requests_left >= 1 and tokens_left >= following.tokens:
                requests_left -= 1
                tokens_left -= following.tokens
                calls.create_task(call(following))
                following = again.popleft() if again else next(waiting)
            await asyncio.sleep(LOOP_S)


async def retry_only(api: Api, waiting: Iterator[Request], calls_in_flight: int) -> None:
    """Call, and wait after a failure."""

    async def caller() -> None:
        for request in waiting:
            for attempt in itertools.count():
                if await api.answers(request) or not request.attempts_left:
                    break
                await asyncio.sleep(random.uniform(1, min(60, 2**attempt)))

    async with asyncio.TaskGroup() as callers:
        for _ in range(calls_in_flight):
            callers.create_task(caller())


async def main() -> None:
    """Call until somebody ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("way", choices=ATTEMPTS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--half", type=int, choices=(0, 1), required=True)
    parser.add_argument("--rpm", type=float, default=0, help="of both halves; 0 for no limit")
    parser.add_argument("--tpm", type=float, default=0, help="likewise")
    parser.add_argument("--connections", type=int, required=True, help="at the same time")
    options = parser.parse_args()
    rpm, tpm = ((per_minute or math.inf) / 2 for per_minute in (options.rpm, options.tpm))
    waiting = requests(options.dataset, options.half, options.model, ATTEMPTS[options.way])
    async with ClientSession(connector=TCPConnector(limit=options.connections)) as session:
        if options.way == "cookbook":
            await cookbook(Api(session), waiting, rpm, tpm)
        else:
            await retry_only(Api(session), waiting, options.connections)


if __name__ == "__main__":
    asyncio.run(main())
