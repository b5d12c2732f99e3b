"""The life of one call: admitted, met by a fault or not, answered after its latency."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from qaworker.simulator.answers import blocks_of, pairs_of
from qaworker.simulator.buckets import Gate, Limits
from qaworker.simulator.draws import Draw, Draws, Latency
from qaworker.simulator.faults import HANG_S, REFUSALS, SLOW_FACTOR, FaultRates
from qaworker.simulator.replies import (
    Answer,
    Refused,
    capped,
    completion,
    count_tokens,
    encode,
    no_such_model,
)
from qaworker.simulator.requests import CompletionRequest, parse
from qaworker.simulator.stats import Stats

DEFAULT_MODELS = ("gpt-5-mini", "gpt-4o-mini")


@dataclass(frozen=True, slots=True)
class Options:
    """What a simulator is started with."""

    models: tuple[str, ...] = DEFAULT_MODELS
    api_key: str = ""
    """Required of clients; empty to accept any or none."""
    seed: int = 0
    latency: Latency = field(default_factory=Latency)
    limits: Limits = field(default_factory=Limits)
    faults: FaultRates = field(default_factory=FaultRates)


class Calls:
    """Answers calls; latency, limits and faults can be replaced while it does."""

    def __init__(self, options: Options, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._draws = Draws(options.seed)
        self._faults = options.faults
        self.stats = Stats(clock)
        self.latency = options.latency
        self.set_limits(options.limits)

    def set_faults(self, faults: FaultRates) -> None:
        """Replace the faults; every prompt's next attempt is its first again."""
        self._faults = faults
        self._draws.forget()

    def set_limits(self, limits: Limits) -> None:
        """Replace the limits of every model; the new buckets are full."""
        self._gates = {model: Gate(limits, self._clock) for model in self._options.models}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer ``POST /v1/chat/completions``.

        Raises:
            Refused: with the error to answer instead.
        """
        call = parse(await request.read())
        gate = self._gates.get(call.model)
        if gate is None:
            raise no_such_model(call.model)
        reserved = call.prompt_tokens + (call.cap or 0)
        gate.admit(reserved)
        draw = self._draws.next(call.opening)
        fault = self._faults.pick(draw.fault)
        if fault:
            self.stats.faults[fault] += 1
        if reply := REFUSALS.get(fault):
            # A request that fails counts against the limit, but generates nothing.
            gate.settle(reserved, call.prompt_tokens)
            raise Refused(reply)
        with self.stats.in_flight():
            if fault == "timeout":
                await asyncio.sleep(HANG_S)
                return _broken_off(request)
            blocks = blocks_of(call.prompt)
            self.stats.charge(block.text for block in blocks)
            delay_s = self.latency.at(draw.latency) * (SLOW_FACTOR if fault == "slow" else 1)
            if delay_s:
                await asyncio.sleep(delay_s)
            pairs = [
                {**pair, "chunk_id": block.chunk_id} if call.wants_chunk_id else pair
                for block in blocks
                for pair in pairs_of(block, self._options.seed)
            ]
            answer = _shown(encode({"pairs": pairs}).decode(), call, fault, draw)
            gate.settle(reserved, call.prompt_tokens + answer.completion_tokens)
        body = completion(draw.name, call.model, call.prompt_tokens, answer)
        if fault == "reset":
            return _broken_off(request, body)
        self.stats.prompt_tokens += call.prompt_tokens
        self.stats.completion_tokens += answer.completion_tokens
        return web.Response(body=body, content_type="application/json", headers=gate.headers())


def _shown(content: str, call: CompletionRequest, fault: str, draw: Draw) -> Answer:
    """The answer as the fault leaves it."""
    answer = capped(content, call.cap)
    if fault == "refusal":
        refusal = "I'm sorry, I can't assist with that request."
        return Answer(None, count_tokens(refusal), refusal=refusal)
    if fault == "malformed":
        # Half of them are no JSON, the others JSON of another shape.
        prose = int(draw.name, 16) % 2
        text = "Here are the pairs you asked for:" if prose else json.dumps({"pairs": [{}]})
        return Answer(text, count_tokens(text))
    if fault in {"truncated", "content_filter"}:
        half = capped(content, max(1, answer.completion_tokens // 2))
        reason = "length" if fault == "truncated" else "content_filter"
        return Answer(half.content, half.completion_tokens, reason)
    return answer


def _broken_off(request: web.BaseRequest, body: bytes = b"") -> web.Response:
    """Send the head and half of the body, if there is one, and reset the connection."""
    if transport := request.transport:
        if body:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            transport.write(head.encode() + body[: len(body) // 2])
        # With a linger time of 0 the kernel sends RST instead of FIN.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
    return web.Response()
