"""Outcomes and claims in a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis import Redis

from qaworker import keys
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.limits.budget import open_budget
from qaworker.models import Outcome, QAPair, Usage
from qaworker.store.connections import check_writable, connect, connect_async, require
from qaworker.store.counters import CHUNKS, REDELIVERIES, Counts, counted
from qaworker.store.dead_letters import DeadLetter, DeadLetters, Selection
from qaworker.store.outcomes import (
    CLAIM_TTL,
    TAKERS_TTL,
    Notice,
    OutcomeReader,
    OutcomeStore,
    Spent,
)
from tests.support.redis_server import RedisServer

T = TypeVar("T")

KEEP = timedelta(days=30)
NOTHING = Counts().take()
TEXTS = {
    "en": "The ferry to Hollin runs twice a day.",
    "ja": "ホリン行きの渡し船は一日に二便ある。",
}


def ok(digest: str, run_id: str = "run", text: str = TEXTS["en"]) -> Outcome:
    pair = QAPair(
        question=f"{text}?", answer=text, question_type="fact", difficulty="easy", evidence=text
    )
    return Outcome(
        digest=digest,
        kind="ok",
        pairs=(pair,),
        usage=Usage(input=10, output=2),
        calls=1,
        run_id=run_id,
    )


def dead(digest: str, run_id: str, detail: str = "") -> Outcome:
    return Outcome(digest=digest, kind="dead", reason="invalid", detail=detail, run_id=run_id)


def letter_for(outcome: Outcome) -> DeadLetter:
    return DeadLetter(
        digest=outcome.digest,
        run_id=outcome.run_id,
        reason=outcome.reason,
        detail=outcome.detail,
        died_at=time.time(),
    )


def with_stores(
    url: str, scenario: Callable[..., Awaitable[T]], owners: Sequence[str] = ("me",)
) -> T:
    """Run a scenario with the store of each process."""

    async def host() -> T:
        clients = [connect_async(url) for _ in owners]
        try:
            return await scenario(
                *(
                    OutcomeStore(client, owner=owner, keep=KEEP)
                    for client, owner in zip(clients, owners, strict=True)
                )
            )
        finally:
            for client in clients:
                await client.aclose()

    return asyncio.run(host())


def url_of(redis: Any) -> str:
    return f"unix://{redis.connection_pool.connection_kwargs['path']}"


def store(redis: Any, *outcomes: Outcome) -> None:
    """Write outcomes as a worker does."""
    notices = [Notice(o.digest, o.run_id, o) for o in outcomes]
    with_stores(url_of(redis), lambda one: one.write(notices, NOTHING))


@pytest.mark.parametrize("language", ["en", "ja"])
def test_an_outcome_comes_back_as_it_was(redis_client: Redis, language: str) -> None:
    written = ok("d1", text=TEXTS[language])
    store(redis_client, written)
    assert OutcomeReader(redis_client).fetch(["d0", "d1"]) == {"d1": written}


def test_a_write_tells_the_run_gives_the_claim_up_and_expires(
    redis_url: str, redis_client: Any
) -> None:
    async def scenario(one: OutcomeStore) -> None:
        await one.claim(["d1"], "run")
        await one.write(
            [Notice("d1", "run", ok("d1")), Notice("d2", "other"), Notice("d3", "run")], NOTHING
        )

    with_stores(redis_url, scenario)
    assert redis_client.get(keys.claim("d1")) is None
    assert redis_client.lrange(keys.done("run"), 0, -1) == [b"d1", b"d3"]
    assert redis_client.lrange(keys.done("other"), 0, -1) == [b"d2"]
    assert redis_client.get(keys.outcome("d2")) is None
    for key in (keys.outcome("d1"), keys.done("run"), keys.done("other")):
        assert KEEP.total_seconds() - 60 < redis_client.ttl(key) <= KEEP.total_seconds(), key


def test_a_write_is_one_transaction(redis_client: Any) -> None:
    """A server that dies in the middle leaves no outcome that its run is never told of."""
    redis_client.config_resetstat()
    store(redis_client, ok("d1"), ok("d2"))
    assert redis_client.info("commandstats")["cmdstat_exec"]["calls"] == 1


def test_an_outcome_of_no_run_tells_nobody(redis_client: Any) -> None:
    store(redis_client, ok("d1", run_id=""))
    assert redis_client.exists(keys.outcome("d1"))
    assert not list(redis_client.scan_iter(keys.done("*")))


@pytest.mark.parametrize("has_budget", [False, True])
def test_a_claim_tells_whether_the_run_has_a_budget(
    redis_client: Any, redis_url: str, *, has_budget: bool
) -> None:
    other = "run" if has_budget else "other"
    open_budget(redis_client, other, 100, spent_micros=0, keep=KEEP)
    claims = with_stores(redis_url, lambda one: one.claim(["d1", "d2"], "run"))
    assert claims.claimed == ("d1", "d2")
    assert claims.has_budget is has_budget


def test_a_claim_is_exclusive_however_many_ask(redis_url: str) -> None:
    digests = [f"d{n}" for n in range(50)]

    async def scenario(*processes: OutcomeStore) -> list[str]:
        found = await asyncio.gather(*(process.claim(digests, "run") for process in processes))
        assert all(set(c.claimed) | set(c.busy) == set(digests) for c in found)
        return [digest for claims in found for digest in claims.claimed]

    claimed = with_stores(redis_url, scenario, owners=[f"host:{n}" for n in range(16)])
    assert sorted(claimed) == sorted(digests)


def test_an_outcome_written_between_asking_and_reading_is_seen(redis_url: str) -> None:
    """While others write and give up, no process ever claims what has an outcome."""
    digests = [f"d{n}" for n in range(100)]

    async def scenario(writer: OutcomeStore, claimer: OutcomeStore) -> None:
        await writer.claim(digests, "run")

        async def write() -> None:
            for digest in digests:
                await writer.write([Notice(digest, "run", ok(digest))], NOTHING)

        writing = asyncio.create_task(write())
        while not writing.done():
            claims = await claimer.claim(digests, "run")
            assert claims.claimed == ()
            assert len(claims.known) + len(claims.busy) == len(digests)
        await writing
        assert (await claimer.claim(digests, "run")).known.keys() == set(digests)

    with_stores(redis_url, scenario, owners=("here", "there"))


def test_asking_for_what_is_known_leaves_no_claim(redis_url: str, redis_client: Any) -> None:
    store(redis_client, ok("d1"))
    with_stores(redis_url, lambda one: one.claim(["d1"], "run"))
    assert redis_client.get(keys.claim("d1")) is None


@pytest.mark.parametrize(
    ("outcome", "is_known"),
    [
        (ok("d1", "earlier"), True),
        (Outcome(digest="d1", kind="rejected", run_id="earlier"), True),
        (dead("d1", "earlier"), False),
        (dead("d1", "run"), True),
    ],
)
def test_only_a_dead_chunk_of_another_run_is_tried_again(
    redis_url: str, redis_client: Redis, outcome: Outcome, is_known: bool
) -> None:
    store(redis_client, outcome)
    claims = with_stores(redis_url, lambda one: one.claim(["d1"], "run"))
    assert (claims.known, claims.claimed) == (({"d1": outcome}, ()) if is_known else ({}, ("d1",)))


def test_an_outcome_that_cannot_be_read_is_none(redis_url: str, redis_client: Redis) -> None:
    redis_client.set(keys.outcome("d1"), b"of another version")
    assert OutcomeReader(redis_client).fetch(["d1"]) == {}
    assert with_stores(redis_url, lambda one: one.claim(["d1"], "run")).claimed == ("d1",)


def test_a_claim_ends_by_itself_unless_it_is_renewed(redis_url: str, redis_client: Any) -> None:
    async def scenario(one: OutcomeStore) -> None:
        await one.claim(["d1", "d2"], "run")
        for digest in ("d1", "d2"):
            assert 0 < redis_client.pttl(keys.claim(digest)) <= CLAIM_TTL.total_seconds() * 1000
            redis_client.pexpire(keys.claim(digest), 5000)
        redis_client.delete(keys.claim("d3"))
        await one.renew(["d1", "d3"])

    with_stores(redis_url, scenario)
    assert redis_client.pttl(keys.claim("d2")) <= 5000 < redis_client.pttl(keys.claim("d1"))
    assert redis_client.get(keys.claim("d3")).startswith(b"me:")


def test_a_claim_whose_grant_got_lost_is_ours_at_the_next_ask(redis_url: str) -> None:
    async def scenario(one: OutcomeStore) -> None:
        for _ in range(2):
            assert (await one.claim(["d1"], "run")).claimed == ("d1",)

    with_stores(redis_url, scenario)


def test_a_process_of_the_same_number_is_a_stranger(redis_url: str) -> None:
    """In a container every worker has the number 1."""

    async def scenario(dead: OutcomeStore, restarted: OutcomeStore) -> None:
        await dead.claim(["d1"], "run")
        assert (await restarted.claim(["d1"], "run")).busy == ("d1",)

    with_stores(redis_url, scenario, owners=("host:1", "host:1"))


def test_a_release_leaves_what_is_anothers(redis_url: str, redis_client: Any) -> None:
    async def scenario(here: OutcomeStore, there: OutcomeStore) -> None:
        await here.claim(["d1"], "run")
        await there.claim(["d2"], "run")
        await here.release(["d1", "d2", "d3"])

    with_stores(redis_url, scenario, owners=("here", "there"))
    left = set(redis_client.scan_iter("*"))
    assert left == {keys.claim("d2").encode(), keys.takers("d2").encode()}


async def die(store: OutcomeStore, redis: Any, digest: str, *, is_asked: bool = True) -> int:
    """A process takes a chunk and dies; returns how many died before it."""
    claims = await store.claim([digest], "run")
    assert claims.claimed == (digest,)
    if is_asked:
        await store.take([digest])
    redis.delete(keys.claim(digest))  # as when it expires
    return claims.deaths.get(digest, 0)


def test_a_claim_tells_how_many_died_who_took_the_chunk(redis_url: str, redis_client: Any) -> None:
    async def scenario(*processes: OutcomeStore) -> list[int]:
        deaths = [await die(process, redis_client, "d1") for process in processes[:-1]]
        last = processes[-1]
        assert (await last.claim(["d0", "d1"], "another run")).deaths == {"d1": 4}
        ttl = redis_client.ttl(keys.takers("d1"))
        assert TAKERS_TTL.total_seconds() - 60 < ttl <= TAKERS_TTL.total_seconds()
        await last.write([Notice("d1", "run", ok("d1"))], NOTHING)
        return deaths

    owners = [f"process-{n}" for n in range(5)]
    assert with_stores(redis_url, scenario, owners=owners) == [0, 1, 2, 3]
    assert not redis_client.exists(keys.takers("d1"))


def test_after_two_deaths_who_did_not_ask_is_not_blamed(redis_url: str, redis_client: Any) -> None:
    async def scenario(*processes: OutcomeStore) -> list[int]:
        return [await die(process, redis_client, "d1", is_asked=False) for process in processes]

    owners = [f"process-{n}" for n in range(5)]
    assert with_stores(redis_url, scenario, owners=owners) == [0, 1, 2, 2, 2]


def test_a_claim_that_expires_while_its_owner_lives_is_no_death(
    redis_url: str, redis_client: Any
) -> None:
    """Redis was away, or the process was frozen."""

    async def scenario(here: OutcomeStore, there: OutcomeStore) -> dict[str, int]:
        for _ in range(5):
            assert await die(here, redis_client, "d1") == 0
        await there.claim(["d1"], "run")
        await here.release(["d1"])
        await there.release(["d1"])
        return (await there.claim(["d1"], "run")).deaths

    assert with_stores(redis_url, scenario, owners=("here", "there")) == {}


@pytest.mark.parametrize("first", ["frozen", "successor"])
@pytest.mark.parametrize(
    ("kinds", "stays"), [("ok ok", 0), ("ok dead", 0), ("dead ok", 1), ("dead dead", 1)]
)
def test_of_two_processes_that_asked_for_a_chunk_the_first_answer_stays(
    redis_url: str, redis_client: Any, first: str, kinds: str, stays: int
) -> None:
    """One is frozen while it asks, for longer than its claim lasts, and its message comes again."""
    written = [
        ok("d1", text=f"answer {n}") if kind == "ok" else dead("d1", "run", detail=f"{n}")
        for n, kind in enumerate(kinds.split())
    ]
    # A requeued chunk: what is to be replaced is no outcome of these two.
    store(redis_client, dead("d1", "earlier"))

    async def scenario(frozen: OutcomeStore, successor: OutcomeStore) -> None:
        assert (await frozen.claim(["d1"], "run")).claimed == ("d1",)
        redis_client.delete(keys.claim("d1"))  # as when it expires
        assert (await successor.claim(["d1"], "run")).claimed == ("d1",)
        for one in (frozen, successor) if first == "frozen" else (successor, frozen):
            await frozen.renew(["d1"])  # it does not know better
            outcome = written.pop(0)
            letter = None if outcome.kind == "ok" else letter_for(outcome)
            await one.write([Notice("d1", "run", outcome, letter)], NOTHING)

    expected = written[stays]
    with_stores(redis_url, scenario, owners=("frozen", "successor"))
    letters = list(DeadLetters(redis_client).find(Selection()))
    assert [letter.detail for letter in letters] == [expected.detail] * (expected.kind == "dead")
    assert redis_client.zcard(keys.letters()) == len(letters)
    assert OutcomeReader(redis_client).fetch(["d1"]) == {"d1": expected}
    assert redis_client.lrange(keys.done("run"), 0, -1) == [b"d1", b"d1"]


def test_a_chunk_that_kills_is_dead_in_each_run_that_has_it(
    redis_url: str, redis_client: Any
) -> None:
    """Who gives up on it without a call was never noted as a taker."""
    store(redis_client, dead("d1", "earlier"))

    async def scenario(*processes: OutcomeStore) -> None:
        for process in processes[:-1]:
            await die(process, redis_client, "d1")
        last = processes[-1]
        assert (await last.claim(["d1"], "run")).deaths == {"d1": 4}
        await last.write([Notice("d1", "run", dead("d1", "run"))], NOTHING)

    with_stores(redis_url, scenario, owners=[f"process-{n}" for n in range(5)])
    assert OutcomeReader(redis_client).fetch(["d1"]) == {"d1": dead("d1", "run")}
    assert not redis_client.exists(keys.takers("d1"), keys.claim("d1"))


def test_an_answer_takes_the_place_of_what_died_in_another_run(
    redis_url: str, redis_client: Any
) -> None:
    """Of a process that was frozen while another asked, for another run, in vain."""

    async def scenario(frozen: OutcomeStore, other: OutcomeStore) -> None:
        await frozen.claim(["d1"], "run")
        redis_client.delete(keys.claim("d1"))
        await other.claim(["d1"], "other")
        died = dead("d1", "other")
        await other.write([Notice("d1", "other", died, letter_for(died))], NOTHING)
        await frozen.write([Notice("d1", "run", ok("d1"))], NOTHING)

    with_stores(redis_url, scenario, owners=("frozen", "other"))
    assert OutcomeReader(redis_client).fetch(["d1"]) == {"d1": ok("d1")}


def test_an_outcome_of_an_earlier_version_is_read(redis_client: Any) -> None:
    store(redis_client, ok("d1"))
    redis_client.set(keys.outcome("d1"), redis_client.get(keys.outcome("d1"))[1:])
    assert OutcomeReader(redis_client).fetch(["d1"]) == {"d1": ok("d1")}


def test_an_outcome_is_stored_though_redis_forgot_who_claimed(
    redis_url: str, redis_client: Any
) -> None:
    async def scenario(one: OutcomeStore) -> None:
        await one.claim(["d1"], "run")
        redis_client.flushall()
        await one.write([Notice("d1", "run", ok("d1"))], NOTHING)

    with_stores(redis_url, scenario)
    assert OutcomeReader(redis_client).fetch(["d1"]) == {"d1": ok("d1")}


def test_what_a_run_has_spent_is_told_to_its_next_claim_and_to_no_other_run(
    redis_url: str, redis_client: Any
) -> None:
    spent = Spent(attempts=2, calls=3, usage=Usage(input=200))

    async def scenario(here: OutcomeStore, there: OutcomeStore) -> None:
        await here.spend({"d1": spent}, "run")
        assert (await there.claim(["d0", "d1"], "run")).spent == {"d1": spent}
        await there.release(["d1"])
        assert (await here.claim(["d1"], "other")).spent == {}

    with_stores(redis_url, scenario, owners=("here", "there"))
    key = keys.spent("run", "d1")
    assert KEEP.total_seconds() - 60 < redis_client.ttl(key) <= KEEP.total_seconds()
    store(redis_client, ok("d1"))
    assert redis_client.get(key) is None


def test_what_another_version_spent_is_nothing(redis_url: str, redis_client: Redis) -> None:
    redis_client.set(keys.spent("run", "d1"), b'{"of": "another version"}')
    assert with_stores(redis_url, lambda one: one.claim(["d1"], "run")).spent == {"d1": Spent()}


def test_a_released_claim_can_be_taken(redis_url: str) -> None:
    async def scenario(here: OutcomeStore, there: OutcomeStore) -> None:
        await here.claim(["d1"], "run")
        assert (await there.claim(["d1"], "run")).busy == ("d1",)
        await here.release(["d1"])
        assert (await there.claim(["d1"], "run")).claimed == ("d1",)

    with_stores(redis_url, scenario, owners=("here", "there"))


def test_the_done_list_is_taken_in_order_and_in_parts(redis_client: Redis) -> None:
    store(redis_client, *(ok(f"d{n}") for n in range(5)))
    reader = OutcomeReader(redis_client)
    assert reader.take_done("run", 3) == ["d0", "d1", "d2"]
    assert reader.take_done("run", 3) == ["d3", "d4"]
    assert reader.take_done("run", 3) == []


def test_claimed_names_what_a_process_generates(redis_url: str, redis_client: Redis) -> None:
    with_stores(redis_url, lambda one: one.claim(["d1"], "run"))
    reader = OutcomeReader(redis_client)
    assert reader.claimed(["d1", "d2"]) == {"d1"}
    assert reader.claimed([]) == set()
    assert reader.fetch([]) == {}


def test_counts_that_redis_takes_only_later_are_not_lost(redis_url: str, redis_client: Any) -> None:
    """It refuses all writes for a while, as with a full disk; reads go on."""

    async def scenario(one: OutcomeStore) -> None:
        counts = Counts()
        counts.add(REDELIVERIES)
        portion = counts.take()
        redis_client.config_set("min-replicas-to-write", 1)
        try:
            with pytest.raises(StoreUnavailable, match="NOREPLICAS"):
                await one.write([], portion)
        finally:
            redis_client.config_set("min-replicas-to-write", 0)
        await one.write([], portion)

    with_stores(redis_url, scenario)
    assert counted(redis_client).totals[REDELIVERIES] == {(): 1}


STORE_CALLS: dict[str, Callable[[OutcomeStore], Awaitable[object]]] = {
    "claim": lambda one: one.claim(["d1"], "run"),
    "take": lambda one: one.take(["d1"]),
    "renew": lambda one: one.renew(["d1"]),
    "release": lambda one: one.release(["d1"]),
    "spend": lambda one: one.spend({"d1": Spent(attempts=1)}, "run"),
    "write": lambda one: one.write([Notice("d1", "run", ok("d1"))], NOTHING),
}
READER_CALLS: dict[str, Callable[[OutcomeReader], object]] = {
    "fetch": lambda one: one.fetch(["d1"]),
    "take_done": lambda one: one.take_done("run", 1),
    "claimed": lambda one: one.claimed(["d1"]),
}


@pytest.fixture
def nowhere(tmp_path: Path) -> str:
    return f"unix://{tmp_path}/no.sock"


@pytest.mark.parametrize("call", STORE_CALLS)
def test_a_store_without_redis_says_what_to_do(nowhere: str, call: str) -> None:
    with pytest.raises(StoreUnavailable, match="start it, or correct REDIS_URL") as caught:
        with_stores(nowhere, STORE_CALLS[call])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("call", READER_CALLS)
def test_a_reader_without_redis_says_what_to_do(nowhere: str, call: str) -> None:
    with connect(nowhere) as redis, pytest.raises(StoreUnavailable, match="REDIS_URL"):
        READER_CALLS[call](OutcomeReader(redis))


def test_a_redis_that_went_away_is_used_again_when_it_is_back(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis(appendonly=True)

    async def scenario(one: OutcomeStore) -> None:
        await one.write([Notice("d1", "run", ok("d1"))], NOTHING)
        server.stop()
        with pytest.raises(StoreUnavailable):
            await one.claim(["d1"], "run")
        server.start()
        assert (await one.claim(["d1"], "run")).known == {"d1": ok("d1")}

    with_stores(server.url, scenario)


def test_a_full_redis_stores_all_of_a_write_or_nothing(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="memory"):
            with_stores(server.url, STORE_CALLS["write"])
        with pytest.raises(StoreUnavailable, match="memory"):
            with_stores(server.url, STORE_CALLS["claim"])
        client.config_set("maxmemory", "0")
        assert list(client.scan_iter("*")) == []
        with_stores(server.url, STORE_CALLS["write"])
        assert client.exists(keys.outcome("d1"), keys.done("run")) == 2


def test_a_full_redis_answers_and_takes_no_writes(
    start_redis: Callable[..., RedisServer],
) -> None:
    server = start_redis()
    with server.client() as client:
        check_writable(client)
        client.config_set("maxmemory", "1")
        require(client)
        with pytest.raises(StoreUnavailable, match="memory"):
            check_writable(client)


def test_require_asks_whether_redis_answers(redis_client: Redis, nowhere: str) -> None:
    require(redis_client)
    with connect(nowhere) as redis, pytest.raises(StoreUnavailable):
        require(redis)


@pytest.mark.parametrize("connecting", [connect, connect_async])
@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost", "redis://host:port"])
def test_what_is_no_address_is_a_configuration_error(
    connecting: Callable[[str], object], url: str
) -> None:
    with pytest.raises(ConfigError, match="correct REDIS_URL or CELERY_BROKER_URL") as caught:
        connecting(url)
    assert "\n" not in str(caught.value)


def test_a_client_whose_connection_was_cut_connects_again(redis_url: str) -> None:
    """A server's `timeout`, or a proxy, closes connections that nobody used for a while."""
    with connect(redis_url) as redis, connect(redis_url) as other:
        require(redis)
        other.client_kill_filter(_type="normal", skipme=True)
        require(redis)


def test_chunks_count_once_however_often_they_are_written(redis_client: Redis) -> None:
    """Also with what was counted besides, and not when only a run is told."""

    async def scenario(one: OutcomeStore) -> None:
        counts = Counts()
        counts.add(REDELIVERIES)
        portion = counts.take()
        notices = [
            Notice("d1", "run", ok("d1")),
            Notice("d2", "run", dead("d2", "run")),
            Notice("d3", "run"),
        ]
        await one.claim(["d1", "d2"], "run")
        for _ in range(2):
            await one.write(notices, portion)

    with_stores(url_of(redis_client), scenario)
    found = counted(redis_client).totals
    assert found[CHUNKS] == {("ok",): 1, ("dead",): 1}
    assert found[REDELIVERIES] == {(): 1}


def test_an_outcome_of_a_worker_that_was_taken_for_dead_counts_once(redis_client: Any) -> None:
    """Whichever of both is done first; another run that tries a dead chunk again counts anew."""

    async def scenario(frozen: OutcomeStore, other: OutcomeStore) -> None:
        counts = Counts()
        for n, (first, second) in enumerate(((frozen, other), (other, frozen))):
            await frozen.claim([f"d{n}"], "run")
            redis_client.delete(keys.claim(f"d{n}"))  # as when it expires
            assert (await other.claim([f"d{n}"], "run")).claimed
            for one in (first, second):
                await one.write([Notice(f"d{n}", "run", dead(f"d{n}", "run"))], counts.take())
        assert (await frozen.claim(["d0"], "later")).claimed
        await frozen.write([Notice("d0", "later", ok("d0", "later"))], counts.take())

    with_stores(url_of(redis_client), scenario, owners=("frozen", "other"))
    assert counted(redis_client).totals[CHUNKS] == {("dead",): 2, ("ok",): 1}


def test_a_count_that_redis_refuses_keeps_no_outcome_back(redis_client: Redis) -> None:
    redis_client.set(keys.counters(), "not ours")
    store(redis_client, ok("d1"))
    assert OutcomeReader(redis_client).fetch(["d1"])
