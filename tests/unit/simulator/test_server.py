"""The server as a real HTTP client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import aiohttp
import pytest

from qaworker.simulator.buckets import Limits
from qaworker.simulator.calls import Options
from qaworker.simulator.draws import Latency
from qaworker.simulator.faults import KINDS, REFUSALS, FaultRates
from qaworker.simulator.server import serving

T = TypeVar("T")

TEXTS = {
    "en": "The ferry crosses the strait in 90 minutes. It carries cars and mail all year round.",
    "ja": "連絡船は海峡を90分で渡る。一年を通して車と郵便物を運んでいる。",
}
LANGUAGES = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)


class Client:
    """One session with a simulator."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str) -> None:
        self.session = session
        self.base_url = base_url
        self.root = base_url.removesuffix("/v1")

    async def chat(
        self, text: str, *, pairs: int = 2, **more: object
    ) -> tuple[int, Any, Mapping[str, str]]:
        body = {
            "model": "gpt-5-mini",
            "messages": [{"role": "user", "content": f'<chunk pairs="{pairs}">\n{text}\n</chunk>'}],
            **more,
        }
        async with self.session.post(f"{self.base_url}/chat/completions", json=body) as response:
            return response.status, await response.json(), response.headers

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        async with self.session.post(f"{self.root}{path}", json=body) as response:
            return response.status, await response.json()

    async def stats(self) -> Any:
        async with self.session.get(f"{self.root}/stats") as response:
            return await response.json()

    async def stats_with(self, **expected: int) -> Any:
        """The statistics, once they are as expected."""
        deadline = time.monotonic() + 10
        while True:
            stats = await self.stats()
            if expected.items() <= stats.items():
                return stats
            assert time.monotonic() < deadline, stats
            await asyncio.sleep(0.01)


def run(scenario: Callable[[Client], Awaitable[T]], **options: Any) -> T:
    """Run a scenario against a server in the same loop."""

    async def main() -> T:
        async with serving(Options(**options)) as base_url, aiohttp.ClientSession() as session:
            return await scenario(Client(session, base_url))

    return asyncio.run(main())


def faulty(kind: str) -> dict[str, Any]:
    return {"faults": FaultRates.of({kind: 1})}


@LANGUAGES
def test_a_completion_has_openais_shape(text: str) -> None:
    status, body, headers = run(lambda client: client.chat(text))
    assert status == 200
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["refusal"] is None
    pairs = json.loads(choice["message"]["content"])["pairs"]
    assert [pair["evidence"] in text for pair in pairs] == [True, True]
    assert set(pairs[0]) == {"question", "answer", "question_type", "difficulty", "evidence"}
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == -(-len(choice["message"]["content"].encode()) // 4)
    assert not any(name.startswith("x-ratelimit") for name in headers)


def test_a_chunks_answer_does_not_depend_on_its_company() -> None:
    names = ("question", "chunk_id")
    pair = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    schema = {"type": "object", "properties": {"pairs": {"type": "array", "items": pair}}}
    response_format = {"type": "json_schema", "json_schema": {"name": "p", "schema": schema}}

    async def scenario(client: Client) -> Any:
        prompt = "\n".join(
            f'<chunk id="{name}" pairs="2">\n{text}\n</chunk>' for name, text in TEXTS.items()
        )
        _, body, _ = await client.chat(
            "", messages=[{"role": "user", "content": prompt}], response_format=response_format
        )
        shared = json.loads(body["choices"][0]["message"]["content"])["pairs"]
        for name, text in TEXTS.items():
            _, body, _ = await client.chat(text)
            alone = json.loads(body["choices"][0]["message"]["content"])["pairs"]
            assert [{**pair, "chunk_id": name} for pair in alone] == [
                pair for pair in shared if pair["chunk_id"] == name
            ]

    run(scenario)


@LANGUAGES
def test_an_answer_is_cut_at_its_cap(text: str) -> None:
    _, body, _ = run(lambda client: client.chat(text, max_completion_tokens=20))
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == 20
    assert len(body["choices"][0]["message"]["content"].encode()) in range(77, 81)


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_fault_that_refuses_charges_nothing(kind: str) -> None:
    async def scenario(client: Client) -> Any:
        return await client.chat(TEXTS["en"]), await client.stats()

    (status, body, headers), stats = run(scenario, **faulty(kind))
    assert status == REFUSALS[kind].status
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == REFUSALS[kind].code
    assert (headers.get("Retry-After") == "1") == (kind == "429")
    assert (stats["faults"], stats["answers"]) == ({kind: 1}, {str(status): 1})
    assert (stats["requests"], stats["calls"], stats["charged"]) == (1, 0, 0)


@LANGUAGES
@pytest.mark.parametrize(
    ("kind", "finish_reason"),
    [("truncated", "length"), ("content_filter", "content_filter"), ("malformed", "stop")],
)
def test_a_fault_that_spoils_the_answer_is_charged(
    kind: str, finish_reason: str, text: str
) -> None:
    async def scenario(client: Client) -> Any:
        return await client.chat(text), await client.stats()

    (status, body, _), stats = run(scenario, **faulty(kind))
    assert status == 200
    assert body["choices"][0]["finish_reason"] == finish_reason
    content = body["choices"][0]["message"]["content"]
    try:
        assert json.loads(content) == {"pairs": [{}]}
    except json.JSONDecodeError:
        assert content
    assert stats["tokens"]["completion"] == body["usage"]["completion_tokens"] > 0
    assert (stats["calls"], stats["charged"]) == (1, 1)


def test_malformed_answers_are_of_both_kinds() -> None:
    async def scenario(client: Client) -> Any:
        bodies = [(await client.chat(f"Text number {n} is here."))[1] for n in range(20)]
        return {body["choices"][0]["message"]["content"] for body in bodies}

    assert len(run(scenario, **faulty("malformed"))) == 2


def test_a_refusal_has_no_content() -> None:
    _, body, _ = run(lambda client: client.chat(TEXTS["en"]), **faulty("refusal"))
    assert body["choices"][0]["message"]["content"] is None
    assert body["choices"][0]["message"]["refusal"]


def test_a_reset_breaks_the_answer_off() -> None:
    async def scenario(client: Client) -> Any:
        with pytest.raises(aiohttp.ClientError):
            await client.chat(TEXTS["en"])
        return await client.stats_with(in_flight=0)

    stats = run(scenario, **faulty("reset"))
    assert (stats["charged"], stats["calls"], stats["answers"]) == (1, 0, {})


def test_a_timeout_lasts_until_the_client_leaves() -> None:
    async def scenario(client: Client) -> Any:
        call = asyncio.ensure_future(client.chat(TEXTS["en"]))
        await client.stats_with(in_flight=1)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        return await client.stats_with(in_flight=0)

    stats = run(scenario, **faulty("timeout"))
    assert (stats["abandoned"], stats["charged"], stats["answers"]) == (1, 0, {})


def test_slow_takes_ten_times_as_long() -> None:
    async def scenario(client: Client) -> Any:
        await client.chat(TEXTS["en"])
        return await client.stats()

    stats = run(scenario, latency=Latency(0.02), **faulty("slow"))
    assert stats["in_flight_seconds"] >= 0.19


def test_every_kind_of_fault_is_tested_here() -> None:
    tested = {"truncated", "content_filter", "malformed", "refusal", "reset", "timeout", "slow"}
    assert set(KINDS) == set(REFUSALS) | tested


def test_faults_fall_on_the_same_prompts_in_any_order() -> None:
    texts = [f"Text number {number} is here." for number in range(40)]
    options = {"faults": FaultRates.of({"500": 0.3, "429": 0.2}), "seed": 5}

    async def statuses(client: Client, order: list[str]) -> Any:
        answers = await asyncio.gather(*(client.chat(text) for text in order))
        return {text: status for text, (status, _, _) in zip(order, answers, strict=True)}

    forward = run(lambda client: statuses(client, texts), **options)
    backward = run(lambda client: statuses(client, texts[::-1]), **options)
    assert forward == backward
    assert set(forward.values()) == {200, 429, 500}


def test_a_conversation_that_goes_on_is_another_attempt_at_its_prompt() -> None:
    texts = [f"Text number {number} is here." for number in range(40)]
    repair = {"role": "user", "content": "Answer again, please."}

    async def second_statuses(client: Client, *more: object) -> list[int]:
        statuses = []
        for text in texts:
            asked = {"role": "user", "content": f'<chunk pairs="2">\n{text}\n</chunk>'}
            await client.chat(text)
            statuses.append((await client.chat(text, messages=[asked, *more]))[0])
        return statuses

    options = {"faults": FaultRates.of({"500": 0.5}), "seed": 5}
    again = run(second_statuses, **options)
    assert run(lambda client: second_statuses(client, repair), **options) == again


def test_a_client_that_leaves_was_charged() -> None:
    async def scenario(client: Client) -> Any:
        call = asyncio.ensure_future(client.chat(TEXTS["ja"]))
        await client.stats_with(in_flight=1)
        call.cancel()
        return await client.stats_with(in_flight=0)

    stats = run(scenario, latency=Latency(60))
    assert (stats["abandoned"], stats["charged"], stats["calls"]) == (1, 1, 0)
    assert (stats["in_flight_peak"], stats["max_calls_per_chunk"]) == (1, 1)


def test_limits_are_set_while_it_runs_and_shown() -> None:
    async def scenario(client: Client) -> Any:
        assert await client.post("/limits", {"rpm": 60, "tpm": 600_000}) == (
            200, {"rpm": 60, "tpm": 600_000},
        )  # fmt: skip
        status, _, headers = await client.chat(TEXTS["en"], max_completion_tokens=500)
        assert (status, headers["x-ratelimit-limit-requests"]) == (200, "60")
        status, body, headers = await client.chat(TEXTS["en"])
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert (headers["Retry-After"], headers["x-ratelimit-remaining-requests"]) == ("1", "0")
        status, _, _ = await client.chat(TEXTS["en"], model="gpt-4o-mini")
        assert status == 200
        await client.post("/limits", {"rpm": None})
        assert (await client.chat(TEXTS["en"]))[0] == 200

    run(scenario)


@LANGUAGES
@pytest.mark.parametrize("rates", [{}, {"500": 1.0}], ids=["answered", "refused"])
def test_tokens_reserved_and_not_used_are_given_back(text: str, rates: dict[str, float]) -> None:
    async def scenario(client: Client) -> Any:
        await client.chat(text, max_completion_tokens=600)
        await client.chat(text, max_completion_tokens=600)
        return await client.stats()

    stats = run(scenario, limits=Limits(tpm=60_000), faults=FaultRates.of(rates))
    assert stats["answers"] == {"500" if rates else "200": 2}


def test_faults_and_latency_are_switched_while_it_runs() -> None:
    async def scenario(client: Client) -> Any:
        assert await client.post("/faults", {"503": 1}) == (200, {"503": 1})
        assert (await client.chat(TEXTS["en"]))[0] == 503
        assert await client.post("/faults", {}) == (200, {})
        assert await client.post("/latency", {"mean_s": 0.05, "sigma": 0}) == (
            200, {"mean_s": 0.05, "sigma": 0},
        )  # fmt: skip
        await client.post("/stats/reset", {})
        assert (await client.chat(TEXTS["en"]))[0] == 200
        stats = await client.stats()
        assert stats["in_flight_seconds"] >= 0.049
        assert (stats["requests"], stats["answers"]) == (1, {"200": 1})

    run(scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [("/faults", {"fire": 1}), ("/faults", {"500": 1.5}), ("/faults", []), ("/limits", {"rpm": -1}),
     ("/limits", {"rps": 1}), ("/limits", {"rpm": "x"}), ("/latency", {"mean_s": -1})],
)  # fmt: skip
def test_a_wrong_control_changes_nothing_and_says_why(path: str, body: object) -> None:
    async def scenario(client: Client) -> Any:
        status, answer = await client.post(path, body)
        assert (status, bool(answer["error"]["message"])) == (400, True)
        assert (await client.chat(TEXTS["en"]))[0] == 200

    run(scenario)


def test_models_are_listed_and_others_unknown() -> None:
    async def scenario(client: Client) -> Any:
        async with client.session.get(f"{client.base_url}/models") as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["a", "b/c"]
        async with client.session.get(f"{client.base_url}/models/b/c") as response:
            assert (response.status, (await response.json())["id"]) == (200, "b/c")
        async with client.session.get(f"{client.base_url}/models/d") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (
                404, "model_not_found",
            )  # fmt: skip
        status, body, _ = await client.chat(TEXTS["en"])
        assert (status, body["error"]["code"]) == (404, "model_not_found")

    run(scenario, models=("a", "b/c"))


def test_a_key_is_required_when_one_is_set() -> None:
    async def scenario(client: Client) -> Any:
        status, body, _ = await client.chat(TEXTS["en"])
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
        client.session.headers["Authorization"] = "Bearer right"
        assert (await client.chat(TEXTS["en"]))[0] == 200

    run(scenario, api_key="right")


def test_says_that_it_is_no_language_model() -> None:
    async def scenario(client: Client) -> Any:
        async with client.session.get(f"{client.root}/") as response:
            return await response.json()

    assert "no language model" in run(scenario)["about"]
