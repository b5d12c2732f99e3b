"""Dead letters in a real Redis: kept, found, removed, and their chunks sent again."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker import keys
from qaworker.app import SENT_HEADER
from qaworker.client.requeueing import requeue
from qaworker.client.senders import QueueSender
from qaworker.engine.batches import parse_batch
from qaworker.errors import StoreUnavailable
from qaworker.models import Outcome, OutcomeKind
from qaworker.store.connections import connect, connect_async, now_s
from qaworker.store.counters import Counts
from qaworker.store.dead_letters import (
    UNREADABLE,
    DeadLetter,
    DeadLetters,
    Selection,
    letter_of,
    put,
)
from qaworker.store.outcomes import Claims, Notice, OutcomeReader, OutcomeStore, Spent

pytestmark = pytest.mark.usefixtures("client_env")

KEEP = timedelta(days=30)
NOTHING = Counts().take()
MODEL = "gpt-5-mini"
TEXTS = ("The weir was raised in 1911.", "堰は一九一一年にかさ上げされた。")
EVERY = Selection()


def letter(
    number: int = 0,
    *,
    run_id: str = "run",
    reason: str = "refused",
    queue: str = keys.DEFAULT_QUEUE,
    age: timedelta = timedelta(),
    config: dict[str, Any] | None = None,
) -> DeadLetter:
    """Of a chunk of its own for each number."""
    given = {"chunk_id": f"c{number}", "text": f"{TEXTS[number % 2]} ({number})", "doc_id": "文書"}
    batch = parse_batch([given], config, MODEL, base_url="http://127.0.0.1:1/v1", run_id=run_id)
    outcome = Outcome(
        digest=batch.digests[0], kind="dead", reason=reason, detail="内容", calls=4, run_id=run_id
    )
    made = letter_of(outcome, batch.chunks[0], batch.config, MODEL, queue=queue, attempts=3)
    return made.model_copy(update={"died_at": made.died_at - age.total_seconds()})


def unreadable(raw: bytes = b"{\xff") -> DeadLetter:
    return DeadLetter(digest="ab" * 16, reason=UNREADABLE, died_at=time.time(), raw=raw)


def keep(redis: Redis, *letters: DeadLetter) -> None:
    with redis.pipeline() as pipe:
        for one in letters:
            put(pipe, one, KEEP)
        pipe.execute()


def write(redis_url: str, *outcomes: Outcome, letters: tuple[DeadLetter, ...] = ()) -> None:
    """Write outcomes as a worker does, the last with letters where there are any."""
    by_digest = {one.digest: one for one in letters}
    notices = [Notice(o.digest, o.run_id, o, by_digest.get(o.digest)) for o in outcomes]

    async def scenario() -> None:
        async with connect_async(redis_url) as redis:
            await OutcomeStore(redis, owner="w", keep=KEEP).write(notices, NOTHING)

    asyncio.run(scenario())


def claim(redis_url: str, one: DeadLetter) -> Claims:
    """What a worker learns that takes the chunk from the queue."""

    async def scenario() -> Claims:
        async with connect_async(redis_url) as redis:
            return await OutcomeStore(redis, owner="w", keep=KEEP).claim([one.digest], one.run_id)

    return asyncio.run(scenario())


def dead(one: DeadLetter, run_id: str | None = None, kind: OutcomeKind = "dead") -> Outcome:
    return Outcome(digest=one.digest, kind=kind, run_id=one.run_id if run_id is None else run_id)


def messages(redis: Any, queue: str = keys.DEFAULT_QUEUE) -> Iterator[tuple[str, Any]]:
    """The run of each waiting message and what its task is given."""
    for body in redis.lrange(keys.queue(queue), 0, -1):
        message = json.loads(body)
        args, _, _ = json.loads(base64.b64decode(message["body"]))
        yield message["headers"]["qaworker_run"], args


@pytest.fixture
def store(redis_client: Redis) -> DeadLetters:
    return DeadLetters(redis_client)


@pytest.mark.parametrize("number", [0, 1])
def test_a_letter_goes_with_its_outcome_and_comes_back_as_it_was(
    redis_url: str, redis_client: Any, store: DeadLetters, number: int
) -> None:
    written = letter(number)
    write(redis_url, dead(written), letters=(written,))
    assert list(store.find(EVERY)) == [written]
    assert OutcomeReader(redis_client).fetch([written.digest])[written.digest].kind == "dead"
    name = keys.letter(written.run_id, written.digest)
    longest = int(KEEP.total_seconds())
    assert longest - 60 < redis_client.ttl(name) <= longest
    assert longest - 60 < redis_client.ttl(keys.letters()) <= longest
    assert TEXTS[number].encode() not in redis_client.get(name)


@pytest.mark.parametrize("raw", [b"{", b"\xff\x00\xfb\xef\xbe", b"x" * 100_000])
def test_the_bytes_of_what_is_no_message_come_back(
    redis_client: Redis, store: DeadLetters, raw: bytes
) -> None:
    keep(redis_client, unreadable(raw))
    assert [found.raw for found in store.find(EVERY)] == [raw]


def test_letters_are_selected_by_all_that_is_given(redis_client: Redis, store: DeadLetters) -> None:
    old = letter(0, age=timedelta(hours=3))
    new = letter(1, reason="invalid")
    other = letter(2, run_id="other:run", age=timedelta(minutes=5))
    keep(redis_client, old, new, other, unreadable())

    def found(**fields: Any) -> list[str]:
        chunks = [one.chunk for one in store.find(Selection(**fields))]
        return ["-" if chunk is None else chunk.chunk_id for chunk in chunks]

    assert sorted(found()) == ["-", "c0", "c1", "c2"]
    assert found(reason="refused") == ["c2", "c0"], "the newest first"
    assert found(run_id="run") == ["c1", "c0"]
    assert found(run_id="other:run") == ["c2"]
    assert found(run_id="") == ["-"]
    assert found(run_id="ru") == []
    assert found(older_than=timedelta(minutes=1)) == ["c2", "c0"]
    assert found(newer_than=timedelta(hours=1), run_id="other:run") == ["c2"]
    assert found(older_than=timedelta(minutes=1), newer_than=timedelta(hours=1)) == ["c2"]
    assert found(digests=(old.digest[:8], new.digest)) == ["c1", "c0"]
    assert found(digests=(old.digest,), reason="invalid") == []


def test_removing_leaves_the_others_and_what_died_once_more(
    redis_client: Redis, store: DeadLetters
) -> None:
    one, two, three = (letter(number) for number in range(3))
    keep(redis_client, one, two, three)
    again = two.model_copy(update={"died_at": two.died_at + 1, "reason": "truncated"})
    keep(redis_client, again)
    assert store.remove([one, two]) == 1
    assert list(store.find(EVERY)) == [again, three]
    assert store.remove([one]) == 0
    assert not redis_client.exists(keys.letter(one.run_id, one.digest))


def test_what_expired_is_not_found_nor_counted(redis_client: Redis, store: DeadLetters) -> None:
    keep(redis_client, letter(0, age=KEEP + timedelta(days=1)))
    assert store.count(KEEP) == 0
    keep(redis_client, letter(1), letter(2))
    redis_client.delete(keys.letter("run", letter(2).digest))
    assert store.count(KEEP) == 2
    assert [one.chunk and one.chunk.chunk_id for one in store.find(EVERY)] == ["c1"]
    assert redis_client.zcard(keys.letters()) == 2


def test_a_letter_of_another_version_hides_no_other(
    redis_client: Redis, store: DeadLetters
) -> None:
    broken, kept = letter(0), letter(1)
    keep(redis_client, broken, kept)
    redis_client.set(keys.letter(broken.run_id, broken.digest), b"of another version")
    assert list(store.find(EVERY)) == [kept]


def test_requeued_chunks_are_exactly_those_with_all_their_attempts(
    redis_url: str, redis_client: Any, store: DeadLetters
) -> None:
    letters = [letter(number, config={"batch_chunks": 2}) for number in range(20)]
    elsewhere = letter(20, run_id="other", queue="high_priority")
    stays = letter(21)
    everything = [*letters, elsewhere, stays]
    write(redis_url, *map(dead, everything), letters=tuple(everything))
    for one in everything:
        blob = Spent(attempts=3, calls=4).model_dump_json()
        redis_client.set(keys.spent(one.run_id, one.digest), blob)
    before_s = time.time()

    done = requeue(redis_client, [*letters, elsewhere], KEEP)

    assert (done.sent, done.unsent, done.refused) == (21, 0, {})
    assert list(store.find(EVERY)) == [stays]
    sent = list(messages(redis_client))
    assert sorted(len(chunks) for _, (chunks, _, _) in sent) == [4, 16]
    assert {run_id for run_id, _ in sent} == {"run"}
    assert {model for _, (_, _, model) in sent} == {MODEL}
    for _, (chunks, config, model) in sent:
        batch = parse_batch(chunks, config, model)
        assert set(batch.digests) <= {one.digest for one in letters}
    [(run_id, (chunks, _, _))] = messages(redis_client, "high_priority")
    assert (run_id, [chunk["chunk_id"] for chunk in chunks]) == ("other", ["c20"])

    # A worker asks for them anew; what was not requeued it knows.
    claims = claim(redis_url, letters[0])
    assert claims.claimed == (letters[0].digest,)
    assert claims.spent == {}
    assert list(claim(redis_url, stays).known) == [stays.digest]
    marks = OutcomeReader(redis_client).requeued("run")
    assert marks.keys() == {one.digest for one in letters}
    assert all(before_s <= at <= time.time() for at in marks.values())


def test_what_is_requeued_has_the_time_of_redis_whatever_this_host_says(
    redis_client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = letter(0)
    before_s = now_s(redis_client)
    monkeypatch.setattr(time, "time", lambda: before_s - 3600)
    requeue(redis_client, [one], KEEP)
    marks = OutcomeReader(redis_client).requeued("run")
    message = json.loads(redis_client.lindex(keys.queue(keys.DEFAULT_QUEUE), 0))
    assert marks == {one.digest: message["headers"][SENT_HEADER]}
    assert before_s <= marks[one.digest] <= now_s(redis_client)


def test_the_client_does_not_miss_a_requeued_message_that_waits(redis_client: Redis) -> None:
    one = letter(0)
    requeue(redis_client, [one], KEEP)
    reader = OutcomeReader(redis_client)
    sender = QueueSender(redis_client, reader, keys.DEFAULT_QUEUE, ready_tasks=None)
    assert sender.lost(list(reader.requeued("run").items())) == []


@pytest.mark.parametrize(
    ("stored", "is_kept"),
    [
        (("run", "dead"), False),
        (("other", "dead"), True),
        (("other", "ok"), True),
        (("run", "ok"), True),
    ],
)
def test_only_the_dead_outcome_of_the_run_is_forgotten(
    redis_url: str, redis_client: Redis, stored: tuple[str, OutcomeKind], is_kept: bool
) -> None:
    one = letter(0)
    write(redis_url, dead(one, *stored))
    requeue(redis_client, [one], KEEP)
    found = OutcomeReader(redis_client).fetch([one.digest])
    assert (one.digest in found) == is_kept


def test_a_chunk_of_a_run_without_workers_waits_for_its_command(
    redis_client: Any, store: DeadLetters
) -> None:
    one = letter(0, queue="")
    keep(redis_client, one)
    done = requeue(redis_client, [one], KEEP)
    assert (done.sent, done.unsent) == (0, 1)
    assert OutcomeReader(redis_client).requeued("run") == {one.digest: 0.0}
    assert not redis_client.exists(keys.queue(keys.DEFAULT_QUEUE))
    assert list(store.find(EVERY)) == []


def test_what_cannot_be_sent_stays(redis_client: Any, store: DeadLetters) -> None:
    other_prompt = letter(0).model_copy(update={"digest": "ff" * 16})
    no_queue = letter(1, queue="retired_queue")
    keep(redis_client, other_prompt, no_queue, unreadable())
    done = requeue(redis_client, store.find(EVERY), KEEP)
    assert (done.sent, done.unsent) == (0, 0)
    assert done.refused == {"unreadable": 1, "unknown queue": 1, "another version's prompt": 1}
    assert len(list(store.find(EVERY))) == 3
    assert not redis_client.exists(keys.queue(keys.DEFAULT_QUEUE), keys.requeued("run"))


def test_a_requeue_that_was_cut_short_is_made_up_for(
    redis_url: str, redis_client: Any, store: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = letter(0)
    write(redis_url, dead(one), letters=(one,))

    def away(*_: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr("qaworker.client.requeueing.publish", away)
        with pytest.raises(StoreUnavailable):
            requeue(redis_client, [one], KEEP)
    assert list(store.find(EVERY)) == [one]
    assert requeue(redis_client, store.find(EVERY), KEEP).sent == 1
    assert list(store.find(EVERY)) == []
    assert len(list(messages(redis_client))) == 1


def test_a_redis_that_is_away_is_said_in_our_words(tmp_path: Path) -> None:
    with connect(f"unix://{tmp_path}/no.sock") as redis:
        store = DeadLetters(redis)
        with pytest.raises(StoreUnavailable):
            list(store.find(EVERY))
        with pytest.raises(StoreUnavailable):
            store.remove([letter(0)])
        with pytest.raises(StoreUnavailable):
            store.count(KEEP)
