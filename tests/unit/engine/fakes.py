"""A provider and a Redis in memory, for engines on virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeVar

from qaworker.engine.batches import Batch, parse_batch
from qaworker.engine.engine import Engine, Shared
from qaworker.engine.gate import Gates
from qaworker.engine.held_runs import HeldRuns
from qaworker.engine.holding import Holding
from qaworker.engine.purse import Purse
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.limits.budget import Granted, State
from qaworker.limits.budget import Settlement as BudgetSettlement
from qaworker.limits.limiter import Exchanged, Grant, Settlement
from qaworker.llm.estimates import Tokens
from qaworker.llm.generator import Answer
from qaworker.llm.prices import Price
from qaworker.models import Chunk, GenerationConfig, Language, Outcome, QAPair, Usage
from qaworker.store.counters import Portion
from qaworker.store.holds import Hold
from qaworker.store.outcomes import (
    CLAIM_TTL,
    SUSPECT_DEATHS,
    Claims,
    Notice,
    OutcomeStore,
    Spent,
    settles,
)
from tests.support.virtual_time import now_s

T = TypeVar("T")

TEXTS: dict[Language, str] = {
    "en": "The mill at Darrow ground its last corn in the autumn of 1911.",
    "ja": "ダロウの水車は、一九一一年の秋に最後の麦を挽いた。",
}
USAGE = Usage(input=100, output=20)
ACCOUNT = "account1"


def chunk(number: int = 0, language: Language = "en") -> Chunk:
    return Chunk(
        chunk_id=f"{language}-{number}",
        text=f"{TEXTS[language]} ({number})",
        language=language,
        pairs_wanted=1,
    )


def batch(
    *chunks: Chunk, run_id: str = "run", batch_chunks: int = 1, model: str = "gpt-5-mini"
) -> Batch:
    config = GenerationConfig(batch_chunks=batch_chunks)
    return parse_batch(chunks, config, model, run_id=run_id, task_id=f"task-of-{run_id}")


def budgeted(made: Batch) -> Batch:
    """The same, of a run that has a budget."""
    return replace(made, is_budgeted=True)


def pair(of: Chunk) -> QAPair:
    return QAPair(
        question=f"What does {of.chunk_id} tell?",
        answer=of.text,
        question_type="fact",
        difficulty="easy",
        evidence=of.text[:10],
    )


def answer(chunks: Sequence[Chunk], *, missing: Sequence[int] = ()) -> Answer:
    """One pair a chunk, none for those that the answer forgot."""
    return Answer(
        pairs=tuple(() if n in missing else (pair(c),) for n, c in enumerate(chunks)),
        dropped=(0,) * len(chunks),
        missing=tuple(missing),
        usage=USAGE,
    )


@dataclass(frozen=True)
class Call:
    """What the generator was asked."""

    chunks: tuple[Chunk, ...]
    cap_factor: float
    repair: str | None
    at_s: float
    model: str = ""

    @property
    def ids(self) -> list[str]:
        return [chunk.chunk_id for chunk in self.chunks]


@dataclass
class FakeGenerator:
    """Answers after ``latency_s``: what ``reply`` says, else one pair a chunk."""

    reply: Callable[[Call], Answer | Exception] = lambda call: answer(call.chunks)
    latency_s: Callable[[Call], float] = lambda _: 1.0
    calls: list[Call] = field(default_factory=list)
    answered: int = 0
    in_flight: int = 0
    peak: int = 0

    def tokens(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,  # noqa: ARG002, the signature is the generator's
        model: str,  # noqa: ARG002
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,  # noqa: ARG002
    ) -> Tokens:
        return Tokens(0, round(100 * len(chunks) * cap_factor))

    async def ask(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,  # noqa: ARG002, the signature is the generator's
        model: str,
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,
    ) -> Answer:
        call = Call(tuple(chunks), cap_factor, repair, now_s(), model)
        self.calls.append(call)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.latency_s(call))
        finally:
            self.in_flight -= 1
        self.answered += 1
        reply = self.reply(call)
        if isinstance(reply, Exception):
            raise reply
        return reply


def is_other(call: Call) -> bool:
    """Whether it is one of :func:`among_others`."""
    return all(one.chunk_id.startswith("other-") for one in call.chunks)


async def among_others(engine: Engine, work: Awaitable[T]) -> T:
    """Wait for some work while the provider answers chunks of another run."""

    async def others() -> None:
        for number in count():
            other = chunk(number).model_copy(
                update={"chunk_id": f"other-{number}", "text": f"Other {number}"}
            )
            await engine.process(batch(other, run_id="others"))

    neighbour = asyncio.create_task(others())
    try:
        return await work
    finally:
        neighbour.cancel()
        await asyncio.wait([neighbour])


def replies(*each: Exception | None) -> Callable[[Call], Answer | Exception]:
    """One reply a call, in order: an error, or None for an answer, which all later calls get."""
    left = iter(each)
    return lambda call: next(left, None) or answer(call.chunks)


class FakeLimiter:
    """Grants what is asked for at once, but for pauses; keeps what it was told."""

    def __init__(self) -> None:
        self.settled: list[Settlement] = []
        self.learnt: list[tuple[float | None, float | None]] = []
        self.paused_until_s = 0.0
        self._numbers = count()

    async def exchange(
        self, model: str, settle: Sequence[Settlement], reserve: Sequence[int]
    ) -> Exchanged:
        del model
        self.settled += settle
        if reserve and (wait_s := self.paused_until_s - now_s()) > 0:
            return Exchanged((), wait_s)
        grants = tuple(Grant(str(next(self._numbers)), tokens, 0.0) for tokens in reserve)
        return Exchanged(grants, None)

    async def learn(self, model: str, rpm: float | None, tpm: float | None) -> None:
        del model
        self.learnt.append((rpm, tpm))

    async def pause(self, model: str, seconds: float) -> None:
        del model
        self.paused_until_s = max(self.paused_until_s, now_s() + seconds)


class FakeHolds:
    """The holds that engines share; a probe is granted every 15 s."""

    def __init__(self) -> None:
        self.held: dict[str, Hold] = {}
        self.probes: list[float] = []
        """When each was granted."""
        self.releases: list[str] = []
        """The scopes that were asked to be released."""
        self.is_away = False

    async def set_hold(
        self, scope: str, reason: str, *, detail: str = "", by: str = "a worker"
    ) -> bool:
        await self._trip()
        is_new = scope not in self.held
        at = now_s()
        hold = Hold(scope=scope, reason=reason, detail=detail, by=by, since=at, probe_at=at + 15)
        before = self.held.get(scope, hold)
        update = {"detail": detail or before.detail}
        if hold.is_operators or not before.is_operators:
            update |= {"by": by, "reason": reason}
        self.held[scope] = before.model_copy(update=update)
        return is_new

    async def release(self, scope: str) -> bool:
        await self._trip()
        self.releases.append(scope)
        if scope not in self.held or self.held[scope].is_operators:
            return False
        del self.held[scope]
        return True

    async def holds(self) -> list[Hold]:
        await self._trip()
        return list(self.held.values())

    async def next_probe(self, scope: str) -> bool:
        await self._trip()
        hold = self.held.get(scope)
        if hold is None or hold.is_operators or hold.probe_at > now_s():
            return False
        self.held[scope] = hold.model_copy(update={"probe_at": now_s() + 15})
        self.probes.append(now_s())
        return True

    async def _trip(self) -> None:
        await asyncio.sleep(0.001)
        if self.is_away:
            raise StoreUnavailable


@asynccontextmanager
async def keeping(gates: Gates, holds: FakeHolds) -> AsyncIterator[None]:
    """Keep gates as the holds are."""
    task = asyncio.create_task(Holding(gates, holds, ACCOUNT).run())
    yield
    task.cancel()
    await asyncio.wait([task])


class FakeBudgets:
    """Budgets in micro-dollars, as the script keeps them; none expires."""

    def __init__(self, **budgets: int) -> None:
        self.budget: dict[str, int] = dict(budgets)
        self.spent: Counter[str] = Counter()
        self.open: dict[str, tuple[str, int]] = {}
        """Reservation -> its run and micro-dollars."""
        self.trips = 0
        self.cancelled: set[str] = set()
        """Runs that were, since their budget was opened."""
        self.is_away = False
        self.answers_after_s = 0.001
        self._numbers = count()

    def reservation(self, micros: int) -> str:
        return f"{next(self._numbers)}:{micros}"

    def state(self, run_id: str) -> State:
        reserved = sum(micros for run, micros in self.open.values() if run == run_id)
        return State(
            self.budget.get(run_id), self.spent[run_id], reserved, run_id in self.cancelled
        )

    async def reserve(
        self, run_id: str, asked: Sequence[str], settled: Sequence[BudgetSettlement] = ()
    ) -> Granted:
        await asyncio.sleep(self.answers_after_s)
        self.trips += 1
        if self.is_away:
            raise StoreUnavailable
        for one in settled:
            if self.open.pop(one.reservation, None) is not None:
                self.spent[run_id] += one.micros
        granted = 0
        for reservation in asked:
            amount = int(reservation.partition(":")[2])
            if reservation not in self.open:
                state = self.state(run_id)
                if state.budget_micros is None or amount > state.free_micros:
                    break
                self.open[reservation] = (run_id, amount)
            granted += 1
        return Granted(granted, self.state(run_id))


PRICE = Price.model_validate({"input": 1, "output": 10})


def price(model: str) -> Price:
    """Of any model but one."""
    if model == "unpriced":
        raise ConfigError("the price of unpriced is not known")
    return PRICE


def purse() -> Purse:
    """For calls that no budget bounds."""
    holds = FakeHolds()
    return Purse(FakeBudgets(), holds, HeldRuns(holds.holds, lambda _: None), price)


def shared(holds: FakeHolds | None = None, budgets: FakeBudgets | None = None) -> Shared:
    """What engines share, with limits for nobody."""
    return Shared(ACCOUNT, FakeLimiter(), holds or FakeHolds(), budgets or FakeBudgets(), price)


@dataclass
class FakeRedis:
    """What the processes share."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    claims: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Digest -> owner, and when the claim expires."""
    done: list[tuple[str, str]] = field(default_factory=list)
    """Run and digest of every notice."""
    spent: dict[tuple[str, str], Spent] = field(default_factory=dict)
    """By run and digest."""
    budgets: set[str] = field(default_factory=set)
    """Runs that have one."""
    takers: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """By digest: who took it and did not say what became of it."""
    counted: Counter[tuple[str, str]] = field(default_factory=Counter)
    writes: list[list[Notice]] = field(default_factory=list)
    is_away: bool = False


class FakeStore(OutcomeStore):
    """One process's view of a FakeRedis; every operation takes a millisecond."""

    def __init__(self, redis: FakeRedis, owner: str = "me") -> None:
        self.redis = redis
        self._owner = owner

    async def _trip(self) -> FakeRedis:
        await asyncio.sleep(0.001)
        if self.redis.is_away:
            raise StoreUnavailable
        return self.redis

    async def claim(self, digests: Sequence[str], run_id: str) -> Claims:
        redis = await self._trip()
        known, claimed, busy, deaths = {}, [], [], {}
        for digest in digests:
            outcome = redis.outcomes.get(digest)
            owner, expires_at = redis.claims.get(digest, ("", 0.0))
            if outcome is not None and settles(outcome, run_id):
                known[digest] = outcome
            elif expires_at > now_s() and owner != self._owner:
                busy.append(digest)
            else:
                self._hold(digest)
                claimed.append(digest)
                if died := len(redis.takers[digest] - {self._owner}):
                    deaths[digest] = died
                if died < SUSPECT_DEATHS:
                    redis.takers[digest].add(self._owner)
        spent = {d: redis.spent[run_id, d] for d in claimed if (run_id, d) in redis.spent}
        return Claims(known, tuple(claimed), tuple(busy), spent, deaths, run_id in redis.budgets)

    async def take(self, digests: Sequence[str]) -> None:
        redis = await self._trip()
        for digest in digests:
            redis.takers[digest].add(self._owner)

    async def renew(self, digests: Sequence[str]) -> None:
        await self._trip()
        for digest in digests:
            self._hold(digest)

    async def release(self, digests: Sequence[str]) -> None:
        redis = await self._trip()
        for digest in digests:
            if redis.claims.get(digest, ("", 0.0))[0] == self._owner:
                del redis.claims[digest]
            redis.takers[digest].discard(self._owner)

    async def spend(self, spent: Mapping[str, Spent], run_id: str) -> None:
        redis = await self._trip()
        redis.spent |= {(run_id, digest): one for digest, one in spent.items()}

    async def write(self, notices: Sequence[Notice], counts: Portion) -> None:
        redis = await self._trip()
        redis.writes.append(list(notices))
        redis.counted.update(counts.counts)
        for notice in notices:
            if notice.outcome is not None:
                redis.outcomes[notice.digest] = notice.outcome
                redis.claims.pop(notice.digest, None)
                redis.takers.pop(notice.digest, None)
                redis.spent.pop((notice.run_id, notice.digest), None)
            if notice.run_id:
                redis.done.append((notice.run_id, notice.digest))

    def _hold(self, digest: str) -> None:
        self.redis.claims[digest] = (self._owner, now_s() + CLAIM_TTL.total_seconds())
