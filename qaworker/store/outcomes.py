"""Outcomes in Redis, addressed by content, and the claims that keep two processes from paying twice.

A process claims a digest before it calls and gives the claim up when the outcome is written. A
message that is delivered a second time (a worker that seemed dead, a client that sent again) then
finds the outcome, or finds the claim and waits. Claims expire, so a dead process blocks nobody.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import resources
from typing import Any, Final

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys, logs
from qaworker.errors import StoreUnavailable
from qaworker.models import Outcome, Usage, Value
from qaworker.redis_errors import store_errors
from qaworker.store import dead_letters
from qaworker.store.connections import now_s
from qaworker.store.counters import Portion
from qaworker.store.dead_letters import DeadLetter

log = logs.get(__name__)

# A dead worker's messages return to the queue after as long (the transport's visibility timeout).
CLAIM_TTL = timedelta(seconds=40)

# Who dies again and again does so within minutes; deaths that lie further apart are coincidence.
TAKERS_TTL = timedelta(days=1)

# What a stored outcome begins with, for the script that may not replace an answer; earlier versions
# wrote neither.
_ANSWER: Final = b"+"
_DEAD: Final = b"-"

# As many chunks may still die together: from then on only those are blamed that were on the wire.
SUSPECT_DEATHS: Final = 2

# What Redis says while it refuses every write.
_PASSING_PROBLEMS: Final = ("MISCONF", "READONLY", "OOM", "NOREPLICAS")

# KEYS[2n+1] -> a claim (String)
# KEYS[2n+2] -> who took it (Set)
# ARGV[1] -> who gives it up
# Deletes claims that are the owner's: one that expired may be another's by now.
_RELEASE: Final = """
for i = 1, #KEYS, 2 do
  if redis.call("GET", KEYS[i]) == ARGV[1] then
    redis.call("DEL", KEYS[i])
  end
  redis.call("SREM", KEYS[i + 1], ARGV[1])
end
"""


def encode(outcome: Outcome) -> bytes:
    """Compact JSON, compressed: about 0.6 KB for three pairs."""
    text = zlib.compress(outcome.model_dump_json(exclude_defaults=True).encode(), level=1)
    return (_DEAD if outcome.kind == "dead" else _ANSWER) + text


def decode(blob: bytes | None) -> Outcome | None:
    """The inverse of :func:`encode`; None for none, and for what another version wrote."""
    if blob is None:
        return None
    try:
        text = blob[1:] if blob[:1] in {_ANSWER, _DEAD} else blob
        return Outcome.model_validate_json(zlib.decompress(text))
    except (zlib.error, ValueError) as error:
        log.warning("outcome_unreadable", error=str(error))
        return None


def settles(outcome: Outcome, run_id: str) -> bool:
    """Whether a run takes this outcome as its own: a dead chunk of another run is tried again."""
    return outcome.kind != "dead" or outcome.run_id == run_id


class Spent(Value):
    """What a run has spent on a chunk that has no outcome yet."""

    attempts: int = 0
    """Calls the provider failed; see :mod:`qaworker.engine.ladder` for those that count."""
    probes: int = 0
    """Calls that failed while the account was held, or held it."""
    calls: int = 0
    usage: Usage = Usage()
    was_truncated: bool = False
    """Whether it had its chance with a larger cap."""
    repair: str = ""
    """What was wrong with an answer, if it had its chance to be repaired."""

    def __add__(self, other: Spent) -> Spent:
        """What was spent on chunks that are asked together: the most attempts, the sum of the cost."""
        return Spent(
            attempts=max(self.attempts, other.attempts),
            probes=max(self.probes, other.probes),
            calls=self.calls + other.calls,
            usage=self.usage + other.usage,
            was_truncated=self.was_truncated or other.was_truncated,
            repair=self.repair or other.repair,
        )


def _spent(blob: bytes) -> Spent:
    try:
        return Spent.model_validate_json(blob)
    except ValueError as error:  # of another version
        log.warning("spent_unreadable", error=str(error))
        return Spent()


@dataclass(frozen=True, slots=True)
class Claims:
    """What a process learnt when it asked for digests."""

    known: dict[str, Outcome] = field(default_factory=dict)
    claimed: tuple[str, ...] = ()
    busy: tuple[str, ...] = ()
    """Claimed by another process."""
    spent: dict[str, Spent] = field(default_factory=dict)
    """Of what is claimed, where the run has asked before."""
    deaths: dict[str, int] = field(default_factory=dict)
    """Of what is claimed, how many processes ended without a word on it, where any did."""
    has_budget: bool = False
    """Whether the run that asked has one, as far as Redis knows."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A digest that a run's client is to be told of, with the outcome when it is new."""

    digest: str
    run_id: str
    outcome: Outcome | None = None
    letter: DeadLetter | None = None
    """Of a new outcome that is dead."""


class OutcomeStore:
    """What the engine does with outcomes; every method raises StoreUnavailable."""

    def __init__(self, redis: AsyncRedis, *, owner: str, keep: timedelta) -> None:
        self._redis = redis
        self._claim: Any = redis.register_script(_script("claim.lua"))
        self._settle = _script("settle.lua")
        # A process that starts anew with the same number is a stranger to its predecessor's claims.
        self._owner = f"{owner}:{secrets.token_hex(4)}"
        self._keep = keep

    async def claim(self, digests: Sequence[str], run_id: str) -> Claims:
        """Claim what has no outcome and no other owner.

        A claim that is ours already was granted with an answer that never came. Who claims is noted
        as a taker until there is an outcome or :meth:`release`: what is left of those are deaths.
        """
        names = [
            name
            for d in digests
            for name in (keys.claim(d), keys.outcome(d), keys.spent(run_id, d), keys.takers(d))
        ]
        terms = (
            int(CLAIM_TTL.total_seconds() * 1000),
            SUSPECT_DEATHS,
            int(TAKERS_TTL.total_seconds()),
        )
        with store_errors():
            has_budget, *found = await self._claim(
                keys=[keys.budget(run_id), *names], args=[self._owner, *terms]
            )
        known: dict[str, Outcome] = {}
        claimed: list[str] = []
        busy: list[str] = []
        needless: list[str] = []
        spent: dict[str, Spent] = {}
        deaths: dict[str, int] = {}
        for digest, (owner, blob, spent_blob, died) in zip(digests, found, strict=True):
            outcome = decode(blob)
            is_ours = owner in {None, self._owner.encode()}
            if outcome is not None and settles(outcome, run_id):
                known[digest] = outcome
                if is_ours:
                    needless.append(digest)
            elif is_ours:
                claimed.append(digest)
                if spent_blob is not None:
                    spent[digest] = _spent(spent_blob)
                if died:
                    deaths[digest] = died
            else:
                busy.append(digest)
        if needless:
            await self.release(needless)
        return Claims(known, tuple(claimed), tuple(busy), spent, deaths, bool(has_budget))

    async def take(self, digests: Sequence[str]) -> None:
        """Be noted as a taker, before the call, of chunks whose claim did not."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for digest in digests:
                    pipe.sadd(keys.takers(digest), self._owner)
                    pipe.expire(keys.takers(digest), TAKERS_TTL)
                await pipe.execute()

    async def renew(self, digests: Sequence[str]) -> None:
        """Hold claims for another term; also after Redis forgot them."""
        if not digests:
            return
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for digest in digests:
                    pipe.set(keys.claim(digest), self._owner, px=CLAIM_TTL)
                await pipe.execute()

    async def release(self, digests: Sequence[str]) -> None:
        """Give up those claims that are ours, and be no taker."""
        if not digests:
            return
        names = [name for digest in digests for name in (keys.claim(digest), keys.takers(digest))]
        with store_errors():
            await self._redis.eval(_RELEASE, len(names), *names, self._owner)

    async def spend(self, spent: Mapping[str, Spent], run_id: str) -> None:
        """Note what a run has spent in all on chunks without outcome, for who asks next."""
        if not spent:
            return
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for digest, one in spent.items():
                    blob = one.model_dump_json(exclude_defaults=True)
                    pipe.set(keys.spent(run_id, digest), blob, ex=self._keep)
                await pipe.execute()

    async def write(self, notices: Sequence[Notice], counts: Portion) -> None:
        """Store new outcomes, give up their claims, tell the runs, and count, in one round trip.

        Of a chunk that another process answered meanwhile, as this one was taken for dead, the answer
        stays. Given once more with the same portion, as nobody knows whether it arrived, it counts once.
        """
        new = [(notice, notice.outcome) for notice in notices if notice.outcome is not None]
        counts = counts.settling({notice.digest: outcome.kind for notice, outcome in new})
        with store_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                counts.add_to(pipe, self._owner)
                if new:
                    self._put(pipe, new)
                told: dict[str, list[str]] = {}
                for notice in notices:
                    if notice.letter is not None:
                        dead_letters.forget_expired(pipe, notice.letter.died_at, self._keep)
                    if notice.run_id:
                        told.setdefault(notice.run_id, []).append(notice.digest)
                for run_id, digests in told.items():
                    pipe.rpush(keys.done(run_id), *digests)
                    pipe.expire(keys.done(run_id), self._keep)
                problem, *_ = await pipe.execute()
        if problem:
            _complain(problem.decode())

    def _put(self, pipe: Any, new: Sequence[tuple[Notice, Outcome]]) -> None:
        names = [keys.letters()]
        texts: list[bytes | float | str] = []
        for notice, outcome in new:
            digest, run_id, letter = notice.digest, notice.run_id, notice.letter
            names += (keys.outcome(digest), keys.takers(digest), keys.claim(digest))
            names += (keys.spent(run_id, digest), keys.letter(run_id, digest))
            texts += (encode(outcome), dead_letters.encode(letter) if letter is not None else b"")
            texts += (
                letter.died_at if letter is not None else 0,
                dead_letters.member(run_id, digest),
            )
        keep_s = int(self._keep.total_seconds())
        pipe.eval(self._settle, len(names), *names, keep_s, *texts)


def _complain(problem: str) -> None:
    """Say why something was not counted; raises StoreUnavailable where a later try may be."""
    if problem.startswith(_PASSING_PROBLEMS):
        raise StoreUnavailable(f"Redis takes no writes ({problem}): see its log, disk and memory")
    log.warning("counts_refused", error=problem)


def _script(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


class OutcomeReader:
    """What a client reads of outcomes and of its run; every method raises StoreUnavailable."""

    def __init__(self, redis: Redis) -> None:
        # Its answers are typed for every option of the client; ours are always bytes.
        self._redis: Any = redis

    def fetch(self, digests: Sequence[str]) -> dict[str, Outcome]:
        """The outcomes that exist, by digest."""
        if not digests:
            return {}
        with store_errors():
            blobs = self._redis.mget([keys.outcome(digest) for digest in digests])
        return {
            digest: outcome
            for digest, blob in zip(digests, blobs, strict=True)
            if (outcome := decode(blob)) is not None
        }

    def take_done(self, run_id: str, limit: int) -> list[str]:
        """Remove and return up to ``limit`` digests from a run's done list."""
        with store_errors():
            digests = self._redis.lpop(keys.done(run_id), limit)
        return [digest.decode() for digest in digests or []]

    def claimed(self, digests: Sequence[str]) -> set[str]:
        """Those of ``digests`` that some process is generating."""
        if not digests:
            return set()
        with store_errors():
            owners = self._redis.mget([keys.claim(digest) for digest in digests])
        return {d for d, owner in zip(digests, owners, strict=True) if owner is not None}

    def requeued(self, run_id: str) -> dict[str, float]:
        """Dead chunks of a run that somebody sent again, and when, in seconds since the epoch."""
        with store_errors():
            marks = self._redis.hgetall(keys.requeued(run_id))
        return {digest.decode(): float(at) for digest, at in marks.items()}

    def forget_requeued(self, run_id: str, digests: Sequence[str]) -> None:
        """Say that the run awaits new outcomes of these."""
        with store_errors():
            self._redis.hdel(keys.requeued(run_id), *digests)

    def now_s(self) -> float:
        """The time by which tasks are sent and runs are cancelled, in seconds since the epoch."""
        return now_s(self._redis)

    def cancelled_at(self, run_id: str) -> float:
        """When, by :meth:`now_s`, the run or every run was last cancelled; 0 for never."""
        with store_errors():
            marks = self._redis.mget([keys.cancelled(run_id), keys.cancelled(None)])
        return max(float(mark or 0) for mark in marks)
