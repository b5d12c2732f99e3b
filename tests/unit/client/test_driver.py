"""The driver, with a ledger on disk, a clock of the test's own, and workers in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path

import pytest

from qaworker.client.driver import (
    CHUNKS_PER_TASK,
    HEED_EVERY_S,
    LOST_AFTER_S,
    RECONCILE_EVERY_S,
    Driver,
)
from qaworker.client.recording import NOTICES_AT_ONCE
from qaworker.engine.batches import Batch
from qaworker.errors import RunCancelled, RunHeld, StoreUnavailable
from qaworker.models import Chunk, GenerationConfig, Language, Outcome, OutcomeKind
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader
from qaworker.store.tally import Counts

START_S = 1_000_000.0
TEXTS: dict[Language, str] = {
    "en": "The tide mill stood idle for forty years.",
    "ja": "潮の水車は四十年のあいだ止まっていた。",
}


class Workers(OutcomeReader):
    """A queue, workers and their Redis: what was sent waits until the test lets it be done."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.done: list[str] = []
        self.sent: list[Batch] = []
        self.sent_at: list[float] = []
        self.gone: set[str] = set()
        """Digests whose message nobody has."""
        self.asked_lost: list[list[str]] = []
        self.space = 1000
        self.is_away = False
        self.cancelled_s = 0.0
        self.clock: Callable[[], float] = lambda: START_S
        self.held: set[str] = set()
        """Digests that a process is generating."""
        self.marks: dict[str, float] = {}
        """Digests that were requeued, and when."""
        self.on_send: Callable[[Batch], None] = lambda _: None
        self.on_ask_lost: Callable[[], None] = lambda: None

    def finish(
        self, *digests: str, kind: OutcomeKind = "ok", run_id: str = "", is_told: bool = True
    ) -> None:
        for digest in digests:
            self.outcomes[digest] = Outcome(digest=digest, kind=kind, run_id=run_id)
            if is_told:
                self.done.append(digest)

    @property
    def sent_digests(self) -> list[str]:
        return [digest for batch in self.sent for digest in batch.digests]

    def _check(self) -> None:
        if self.is_away:
            raise StoreUnavailable

    def fetch(self, digests: Sequence[str]) -> dict[str, Outcome]:
        self._check()
        return {d: self.outcomes[d] for d in digests if d in self.outcomes}

    def take_done(self, run_id: str, limit: int) -> list[str]:  # noqa: ARG002, there is one run
        self._check()
        taken, self.done = self.done[:limit], self.done[limit:]
        return taken

    def claimed(self, digests: Sequence[str]) -> set[str]:
        self._check()
        return self.held & set(digests)

    def now_s(self) -> float:
        self._check()
        return self.clock()

    def cancelled_at(self, run_id: str) -> float:  # noqa: ARG002, there is one run
        self._check()
        return self.cancelled_s

    def requeued(self, run_id: str) -> dict[str, float]:  # noqa: ARG002, there is one run
        self._check()
        return dict(self.marks)

    def forget_requeued(self, run_id: str, digests: Sequence[str]) -> None:  # noqa: ARG002, likewise
        self._check()
        for digest in digests:
            del self.marks[digest]

    def room(self) -> int:
        self._check()
        return self.space

    def send(self, batch: Batch, sent_at: float) -> None:
        self._check()
        self.on_send(batch)
        self.sent.append(batch)
        self.sent_at.append(sent_at)

    def lost(self, sent: Sequence[tuple[str, float]]) -> list[str]:
        self._check()
        self.on_ask_lost()
        self.asked_lost.append([digest for digest, _ in sent])
        return [digest for digest, _ in sent if digest in self.gone]


class Clock:
    """Seconds since the epoch, moved by the test."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.create_or_open(tmp_path / "run") as opened:
        yield opened


def fill(ledger: Ledger, chunks: int = 5, language: Language = "en") -> None:
    """Chunks whose digests are d0, d1, …."""
    ledger.fill(
        (
            Chunk(
                chunk_id=f"c{n}", text=f"{TEXTS[language]} {n}", language=language, pairs_wanted=1
            ),
            f"d{n}",
        )
        for n in range(chunks)
    )
    ledger.mark_filled(documents=1, skipped_rows=0)


@pytest.fixture
def driver(ledger: Ledger, workers: Workers, clock: Clock) -> Driver:
    return make_driver(ledger, workers, clock)


def make_driver(ledger: Ledger, workers: Workers, clock: Clock, batch_chunks: int = 1) -> Driver:
    workers.clock = clock
    config = GenerationConfig(batch_chunks=batch_chunks)
    return Driver(ledger, workers, workers, config=config, model="gpt-5-mini", clock=clock)


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_run_ends_when_every_chunk_has_an_outcome(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock, language: Language
) -> None:
    fill(ledger, 40, language)
    workers.on_send = lambda batch: workers.finish(*batch.digests, run_id=ledger.run_id)
    shown: list[Counts] = []
    assert driver.run(shown.append, idle=clock.sleep)
    assert shown[-1].ok == shown[-1].chunks == 40
    assert [len(batch.digests) for batch in workers.sent] == [16, 16, 8]
    assert workers.sent[0].chunks[0].text == f"{TEXTS[language]} 0"
    assert {batch.run_id for batch in workers.sent} == {ledger.run_id}


def test_an_empty_run_is_complete_at_once(driver: Driver, ledger: Ledger, workers: Workers) -> None:
    fill(ledger, 0)
    assert driver.run(lambda _: None)
    assert workers.sent == []


@pytest.mark.parametrize(("batch_chunks", "size"), [(1, 16), (3, 15), (5, 15), (4, 16)])
def test_a_task_holds_whole_prompts(
    ledger: Ledger, workers: Workers, clock: Clock, batch_chunks: int, size: int
) -> None:
    fill(ledger, 40)
    make_driver(ledger, workers, clock, batch_chunks).step()
    assert [len(batch.digests) for batch in workers.sent][:2] == [size, size]


def test_no_more_tasks_are_sent_than_there_is_room_for(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    fill(ledger, 10 * CHUNKS_PER_TASK)
    workers.space = 3
    driver.step()
    assert len(workers.sent) == 3
    workers.space = 0
    driver.step()
    assert len(workers.sent) == 3
    workers.space = 1
    driver.step()
    assert workers.sent_digests == [f"d{n}" for n in range(4 * CHUNKS_PER_TASK)]


@pytest.mark.parametrize("kind", ["ok", "rejected"])
def test_what_another_run_paid_for_is_recorded_without_sending(
    driver: Driver, ledger: Ledger, workers: Workers, kind: OutcomeKind
) -> None:
    fill(ledger, 3)
    workers.finish("d0", "d2", kind=kind, run_id="earlier", is_told=False)
    driver.step()
    assert workers.sent_digests == ["d1"]
    assert (ledger.counts().settled, ledger.counts().reused) == (2, 2)


def test_known_outcomes_take_no_room(driver: Driver, ledger: Ledger, workers: Workers) -> None:
    fill(ledger, 10 * CHUNKS_PER_TASK)
    workers.finish(*(f"d{n}" for n in range(9 * CHUNKS_PER_TASK)), is_told=False)
    workers.space = 1
    driver.step()
    assert [batch.digests[0] for batch in workers.sent] == [f"d{9 * CHUNKS_PER_TASK}"]


def test_a_dead_chunk_of_another_run_is_sent(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    fill(ledger, 1)
    workers.finish("d0", kind="dead", run_id="earlier", is_told=False)
    driver.step()
    assert workers.sent_digests == ["d0"]
    assert ledger.counts().settled == 0


def test_a_dead_chunk_of_this_run_is_its_outcome(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    fill(ledger, 1)
    workers.finish("d0", kind="dead", run_id=ledger.run_id, is_told=False)
    driver.step()
    assert workers.sent == []
    assert ledger.counts().dead == 1


def test_chunks_are_marked_before_they_are_sent(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    fill(ledger, 2)
    marked: list[list[tuple[str, float]]] = []
    workers.on_send = lambda _: marked.append(list(ledger.sent()))
    driver.step()
    assert marked == [[("d0", START_S), ("d1", START_S)]]
    assert workers.sent_at == [START_S]


def test_an_outcome_without_a_notice_is_found(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 2)
    driver.step()
    workers.finish("d0", "d1", is_told=False)
    driver.step()
    assert ledger.counts().settled == 0
    clock.sleep(RECONCILE_EVERY_S)
    driver.step()
    assert ledger.counts().settled == 2
    assert len(workers.sent) == 1


def test_a_lost_message_is_sent_again_when_it_is_late(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 3)
    driver.step()
    workers.gone = {"d1"}
    clock.sleep(LOST_AFTER_S)
    driver.step()
    assert workers.asked_lost == []
    clock.sleep(RECONCILE_EVERY_S)
    driver.step()
    assert workers.asked_lost == [["d0", "d1", "d2"]]
    assert [batch.digests for batch in workers.sent[1:]] == [("d1",)]
    assert dict(ledger.sent())["d1"] == clock.now_s


def test_what_is_lost_is_sent_again_when_there_is_room(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    """What was handed back is taken for lost, and would fill a queue that nobody empties."""
    fill(ledger, 3)
    driver.step()
    workers.gone, workers.space = {"d1"}, 0
    for _ in range(3):
        clock.sleep(LOST_AFTER_S + RECONCILE_EVERY_S)
        driver.step()
    assert len(workers.sent) == 1
    workers.space = 1
    driver.step()
    assert [batch.digests for batch in workers.sent[1:]] == [("d1",)]


def test_what_was_sent_again_gets_its_time_again(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 1)
    driver.step()
    workers.gone = {"d0"}
    for _ in range(14):
        clock.sleep(RECONCILE_EVERY_S)
        driver.step()
    assert workers.sent_digests == ["d0"] * 3


def test_nothing_that_somebody_has_is_sent_again(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 3)
    for _ in range(100):
        driver.step()
        clock.sleep(RECONCILE_EVERY_S)
    assert workers.sent_digests == ["d0", "d1", "d2"]


def test_a_run_goes_on_where_a_killed_command_left_it(
    ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 3 * CHUNKS_PER_TASK)
    workers.space = 2
    make_driver(ledger, workers, clock).step()
    workers.finish(*workers.sent_digests, is_told=False)
    make_driver(ledger, workers, clock).step()
    assert sorted(workers.sent_digests) == sorted({f"d{n}" for n in range(3 * CHUNKS_PER_TASK)})
    assert ledger.counts().settled == 2 * CHUNKS_PER_TASK


def test_a_run_outlives_a_redis_that_is_away(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 5)
    workers.is_away = True
    workers.on_send = lambda batch: workers.finish(*batch.digests)

    def idle(seconds: float) -> None:
        clock.sleep(seconds)
        workers.is_away = clock.now_s < START_S + 100

    assert driver.run(lambda _: None, idle=idle)
    assert clock.now_s >= START_S + 100
    assert workers.sent_digests == [f"d{n}" for n in range(5)]


def test_chunks_that_were_marked_but_not_sent_are_sent_later(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 2)

    def fail(_: Batch) -> None:
        workers.on_send = lambda batch: workers.finish(*batch.digests)
        workers.gone = {"d0", "d1"}
        raise StoreUnavailable

    workers.on_send = fail
    assert driver.run(lambda _: None, idle=clock.sleep)
    assert workers.sent_digests == ["d0", "d1"]
    assert clock.now_s > START_S + LOST_AFTER_S


def test_what_stood_behind_a_batch_that_met_a_lost_redis_is_sent_at_once(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    fill(ledger, 3 * CHUNKS_PER_TASK)

    def leave_after_the_first(_: Batch) -> None:
        workers.is_away = bool(workers.sent)
        workers._check()

    workers.on_send = leave_after_the_first
    with pytest.raises(StoreUnavailable):
        driver.step()
    workers.is_away, workers.on_send = False, lambda _: None
    driver.step()
    # The second batch may have been published; it is late, not lost.
    assert [batch.digests[0] for batch in workers.sent] == ["d0", f"d{2 * CHUNKS_PER_TASK}"]


def test_a_run_gives_up_when_its_time_is_over_and_goes_on_later(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 2)
    assert not driver.run(lambda _: None, timeout_s=30, idle=clock.sleep)
    assert START_S + 30 <= clock.now_s < START_S + 31
    workers.finish("d0", "d1")
    assert driver.run(lambda _: None, timeout_s=30, idle=clock.sleep)
    assert len(workers.sent) == 1


def test_a_run_without_time_still_records_what_is_there(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 1)
    workers.finish("d0")
    assert driver.run(lambda _: None, timeout_s=0, idle=clock.sleep)


def test_chunks_of_equal_text_are_sent_once(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    same = Chunk(chunk_id="c", text=TEXTS["ja"], language="ja", pairs_wanted=1)
    ledger.fill((same.model_copy(update={"chunk_id": f"c{n}"}), "d0") for n in range(3))
    ledger.mark_filled(documents=3, skipped_rows=0)
    driver.step()
    workers.finish("d0", run_id=ledger.run_id)
    driver.step()
    assert workers.sent_digests == ["d0"]
    assert ledger.counts().ok == 3


def test_a_run_that_is_cancelled_ends_and_sends_nothing_more(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 3 * CHUNKS_PER_TASK)
    workers.space = 1

    def take_no_more(_: Batch) -> None:
        workers.space = 0

    def remove_messages(seconds: float) -> None:
        workers.cancelled_s = workers.cancelled_s or clock.now_s
        clock.sleep(seconds)
        workers.space = int(clock.now_s >= START_S + HEED_EVERY_S)

    workers.on_send = take_no_more
    with pytest.raises(RunCancelled):
        driver.run(lambda _: None, idle=remove_messages)
    assert clock.now_s <= START_S + 2 * HEED_EVERY_S
    assert workers.sent_digests == [f"d{n}" for n in range(CHUNKS_PER_TASK)]


def test_a_long_submission_notices_between_two_tasks_that_it_is_cancelled(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 10 * CHUNKS_PER_TASK)

    def cancel(_: Batch) -> None:
        workers.cancelled_s = clock.now_s
        clock.sleep(HEED_EVERY_S)

    workers.on_send = cancel
    with pytest.raises(RunCancelled):
        driver.send()
    assert len(workers.sent) == 1


def test_a_cancelled_run_goes_on_at_once_but_for_what_workers_hold(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 4)
    driver.step()
    workers.finish("d0", run_id=ledger.run_id)
    workers.held = {"d2"}
    workers.cancelled_s = clock.now_s
    workers.sent.clear()
    clock.sleep(2)
    again = make_driver(ledger, workers, clock)
    again.step()
    assert workers.sent_digests == ["d1", "d3"]
    clock.sleep(2)
    again.step()
    make_driver(ledger, workers, clock).step()
    assert workers.sent_digests == ["d1", "d3"]
    assert dict(ledger.sent()).keys() == {"d1", "d2", "d3"}


def test_a_mark_that_expires_cancels_nothing(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 1)
    workers.cancelled_s = clock.now_s - 1
    driver.step()
    workers.cancelled_s = 0.0
    clock.sleep(2 * HEED_EVERY_S)
    driver.step()
    assert workers.sent_digests == ["d0"]


@pytest.mark.parametrize("new_kind", ["ok", "rejected", "dead"])
def test_a_requeued_chunk_gets_a_new_outcome(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock, new_kind: OutcomeKind
) -> None:
    fill(ledger, 2)
    driver.step()
    workers.finish("d0", run_id=ledger.run_id)
    workers.finish("d1", kind="dead", run_id=ledger.run_id)
    driver.step()
    assert ledger.counts().dead == 1
    # Requeued, and its message is with a worker.
    del workers.outcomes["d1"]
    workers.marks = {"d1": clock.now_s, "unknown": clock.now_s}
    clock.sleep(RECONCILE_EVERY_S)
    driver.step()
    counts = ledger.counts()
    assert (counts.ok, counts.dead, counts.settled) == (1, 0, 1)
    assert workers.marks == {}
    assert list(ledger.sent()) == [("d1", clock.now_s - RECONCILE_EVERY_S)]
    workers.finish("d1", kind=new_kind, run_id=ledger.run_id)
    driver.step()
    assert ledger.counts().settled == 2
    assert getattr(ledger.counts(), new_kind) == (2 if new_kind == "ok" else 1)
    assert workers.sent_digests == ["d0", "d1"]


def test_a_finished_run_that_is_started_again_awaits_what_was_requeued(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 1)
    workers.finish("d0", kind="dead", run_id=ledger.run_id)
    assert driver.run(lambda _: None, idle=clock.sleep)
    del workers.outcomes["d0"]
    workers.marks = {"d0": clock.now_s}
    seen: list[Counts] = []

    def idle(seconds: float) -> None:
        clock.sleep(seconds)
        workers.finish("d0", run_id=ledger.run_id)

    assert make_driver(ledger, workers, clock).run(seen.append, idle=idle)
    assert seen[0].settled == 0
    assert (seen[-1].ok, seen[-1].dead) == (1, 0)


def test_a_run_does_not_end_while_a_chunk_is_requeued(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 2)
    workers.finish("d0", kind="dead", run_id=ledger.run_id)

    def on_send(_: object) -> None:
        # Before the run looks for requeued chunks the next time, it has its last outcome.
        workers.finish("d1", run_id=ledger.run_id)
        del workers.outcomes["d0"]
        workers.marks = {"d0": clock.now_s}

    def idle(seconds: float) -> None:
        clock.sleep(seconds)
        workers.finish("d0", run_id=ledger.run_id)

    workers.on_send = on_send
    assert driver.run(lambda _: None, idle=idle)
    assert (ledger.counts().ok, ledger.counts().dead) == (2, 0)
    assert clock.now_s < START_S + RECONCILE_EVERY_S


def test_a_complete_run_ends_although_redis_went_away(
    driver: Driver, ledger: Ledger, workers: Workers
) -> None:
    fill(ledger, 1)
    workers.finish("d0", kind="dead", run_id=ledger.run_id)

    def on_progress(counts: Counts) -> None:
        workers.is_away = counts.dead == 1

    assert driver.run(on_progress)


def test_a_requeued_chunk_whose_message_is_nowhere_is_sent_at_once(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    """As of a run without workers, whose letters are requeued without a message."""
    fill(ledger, 1)
    driver.step()
    workers.finish("d0", kind="dead", run_id=ledger.run_id)
    driver.step()
    del workers.outcomes["d0"]
    workers.gone = {"d0"}
    workers.marks = {"d0": 0.0}
    clock.sleep(RECONCILE_EVERY_S)
    driver.step()
    assert workers.sent_digests == ["d0", "d0"]


class FakeStanding:
    """Held when the test says so."""

    def __init__(self) -> None:
        self.why = ""
        self.renewals = 0
        self.on_renew: Callable[[], None] = lambda: None

    def held(self) -> RunHeld | None:
        return RunHeld(self.why) if self.why else None

    def renew(self) -> None:
        self.on_renew()
        self.renewals += 1

    def release(self) -> None:
        self.why = ""


def standing_driver(
    ledger: Ledger, workers: Workers, clock: Clock, standing: FakeStanding
) -> Driver:
    return Driver(
        ledger,
        workers,
        workers,
        config=GenerationConfig(),
        model="gpt-5-mini",
        standing=standing,
        clock=clock,
    )


def test_a_run_that_is_held_takes_what_is_done_and_lets_all_else_wait(
    ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 3 * CHUNKS_PER_TASK)
    workers.space = 1
    standing = FakeStanding()

    def hold(seconds: float) -> None:
        workers.finish("d0", "d1", run_id=ledger.run_id)
        standing.why = "spent"
        workers.space = 0
        clock.sleep(seconds)

    workers.on_send = lambda _: setattr(workers, "space", 0)
    with pytest.raises(RunHeld, match="spent"):
        standing_driver(ledger, workers, clock, standing).run(lambda _: None, idle=hold)
    assert clock.now_s <= START_S + 2 * HEED_EVERY_S
    assert ledger.counts().ok == 2
    assert list(ledger.sent()) == []
    sent = len(workers.sent)
    with pytest.raises(RunHeld):
        standing_driver(ledger, workers, clock, standing).send()
    assert len(workers.sent) == sent

    standing.why, workers.space = "", 1000
    workers.on_send = lambda batch: workers.finish(*batch.digests, run_id=ledger.run_id)
    again = standing_driver(ledger, workers, clock, standing)
    assert again.run(lambda _: None, idle=clock.sleep)
    assert clock.now_s < START_S + LOST_AFTER_S


@pytest.mark.parametrize("budget", [None, 1000])
def test_messages_say_whether_their_run_has_a_budget(
    ledger: Ledger, workers: Workers, clock: Clock, budget: int | None
) -> None:
    fill(ledger, 2)
    if budget is not None:
        ledger.set_budget(budget)
    standing_driver(ledger, workers, clock, FakeStanding()).step()
    assert [batch.is_budgeted for batch in workers.sent] == [budget is not None]


def test_a_budget_is_renewed_now_and_then(ledger: Ledger, workers: Workers, clock: Clock) -> None:
    fill(ledger, 1)
    standing = FakeStanding()
    driver = standing_driver(ledger, workers, clock, standing)
    for expected in (1, 1, 2):
        driver.step()
        assert standing.renewals == expected
        clock.sleep(RECONCILE_EVERY_S / 2)


def test_a_budget_is_renewed_when_all_that_is_paid_is_known_and_nothing_new_is_sent(
    ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    chunks = 3 * NOTICES_AT_ONCE
    fill(ledger, chunks)
    ledger.mark_sent((f"d{n}" for n in range(chunks)), clock.now_s)
    workers.finish(*(f"d{n}" for n in range(1, chunks)), run_id=ledger.run_id)
    workers.gone = {"d0"}
    workers.clock = clock
    clock.sleep(2 * LOST_AFTER_S)
    standing = FakeStanding()
    known: list[tuple[int, int]] = []
    standing.on_renew = lambda: known.append((ledger.counts().settled, len(workers.sent)))
    standing_driver(ledger, workers, clock, standing).step()
    assert known == [(chunks - 1, 0)]
    assert workers.sent_digests == ["d0"]


def test_a_lost_chunk_is_not_sent_again_when_its_outcome_comes_at_last(
    driver: Driver, ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 2)
    driver.step()
    workers.gone = {"d0", "d1"}
    workers.on_ask_lost = lambda: workers.finish("d1", run_id=ledger.run_id)
    clock.sleep(LOST_AFTER_S + RECONCILE_EVERY_S)
    driver.step()
    assert workers.sent_digests == ["d0", "d1", "d0"]
    assert ledger.counts().ok == 1


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_held_run_for_which_all_is_known_is_complete(
    ledger: Ledger, workers: Workers, clock: Clock, *, is_sent: bool
) -> None:
    """As when another run over the same data was paid for."""
    fill(ledger, 2 * CHUNKS_PER_TASK)
    digests = [f"d{n}" for n in range(2 * CHUNKS_PER_TASK)]
    if is_sent:
        ledger.mark_sent(digests, clock.now_s)
    standing = FakeStanding()
    standing.why = "spent"
    workers.finish(*digests[:-1], run_id="another", is_told=False)
    with pytest.raises(RunHeld):
        standing_driver(ledger, workers, clock, standing).run(lambda _: None)
    assert ledger.counts().settled == 2 * CHUNKS_PER_TASK - 1
    workers.finish(digests[-1], run_id="another", is_told=False)
    assert standing_driver(ledger, workers, clock, standing).run(lambda _: None)
    assert workers.sent == []
    assert standing.why == ""


def test_a_held_run_whose_dead_chunk_is_requeued_is_not_complete(
    ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 1)
    ledger.record([Outcome(digest="d0", kind="dead", run_id=ledger.run_id)])
    workers.marks = {"d0": clock.now_s}
    standing = FakeStanding()
    standing.why = "spent"
    with pytest.raises(RunHeld):
        standing_driver(ledger, workers, clock, standing).run(lambda _: None)
    assert workers.marks == {}


class Ended(BaseException):
    """The process ended: Ctrl-C, or worse."""


def test_whatever_ends_a_submission_leaves_one_task_in_doubt_at_most(
    ledger: Ledger, workers: Workers, clock: Clock
) -> None:
    fill(ledger, 10 * CHUNKS_PER_TASK)

    def end_at_the_fourth(_: Batch) -> None:
        # What a KILL would leave of the ledger.
        assert len(list(ledger.sent())) == (len(workers.sent) + 1) * CHUNKS_PER_TASK
        if len(workers.sent) == 3:
            raise Ended

    workers.on_send = end_at_the_fourth
    with pytest.raises(Ended):
        make_driver(ledger, workers, clock).send()
    workers.on_send = lambda _: None
    assert make_driver(ledger, workers, clock).send() == 6 * CHUNKS_PER_TASK
    starts = [batch.digests[0] for batch in workers.sent]
    assert starts == [f"d{n * CHUNKS_PER_TASK}" for n in range(10) if n != 3]


def test_a_host_whose_clock_is_set_changes_no_interval() -> None:
    assert signature(Driver).parameters["clock"].default is time.monotonic
