"""Outcomes in Redis, addressed by content, and the claims that keep two processes from paying twice.

A process claims a digest before it calls and gives the claim up when the outcome is written. A
message that is delivered a second time (a worker that seemed dead, a client that sent again) then
finds the outcome, or finds the claim and waits. Claims expire, so a dead process blocks nobody.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys, logs
from qaworker.models import Outcome
from qaworker.store.connections import store_errors

log = logs.get(__name__)

# A dead worker's messages return to the queue after as long (the transport's visibility timeout).
CLAIM_TTL = timedelta(seconds=40)


def encode(outcome: Outcome) -> bytes:
    """Compact JSON, compressed: about 0.6 KB for three pairs."""
    return zlib.compress(outcome.model_dump_json(exclude_defaults=True).encode(), level=1)


def decode(blob: bytes | None) -> Outcome | None:
    """The inverse of :func:`encode`; None for none, and for what another version wrote."""
    if blob is None:
        return None
    try:
        return Outcome.model_validate_json(zlib.decompress(blob))
    except (zlib.error, ValueError) as error:
        log.warning("outcome_unreadable", error=str(error))
        return None


def settles(outcome: Outcome, run_id: str) -> bool:
    """Whether a run takes this outcome as its own: a dead chunk of another run is tried again."""
    return outcome.kind != "dead" or outcome.run_id == run_id


@dataclass(frozen=True, slots=True)
class Claims:
    """What a process learnt when it asked for digests."""

    known: dict[str, Outcome]
    claimed: tuple[str, ...]
    busy: tuple[str, ...]
    """Claimed by another process."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A digest that a run's client is to be told of, with the outcome when it is new."""

    digest: str
    run_id: str
    outcome: Outcome | None = None


class OutcomeStore:
    """What the engine does with outcomes; every method raises StoreUnavailable."""

    def __init__(self, redis: AsyncRedis, *, owner: str, keep: timedelta) -> None:
        self._redis = redis
        self._owner = owner
        self._keep = keep

    async def claim(self, digests: Sequence[str], run_id: str) -> Claims:
        """Claim what has no outcome and no other owner.

        The claim is asked for before the outcome is read: an outcome written in between is seen.
        """
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for digest in digests:
                    pipe.set(keys.claim(digest), self._owner, nx=True, px=CLAIM_TTL)
                pipe.mget([keys.outcome(digest) for digest in digests])
                *granted, blobs = await pipe.execute()
        known: dict[str, Outcome] = {}
        claimed: list[str] = []
        busy: list[str] = []
        needless: list[str] = []
        for digest, is_ours, blob in zip(digests, granted, blobs, strict=True):
            outcome = decode(blob)
            if outcome is not None and settles(outcome, run_id):
                known[digest] = outcome
                if is_ours:
                    needless.append(digest)
            elif is_ours:
                claimed.append(digest)
            else:
                busy.append(digest)
        if needless:
            await self.release(needless)
        return Claims(known, tuple(claimed), tuple(busy))

    async def renew(self, digests: Iterable[str]) -> None:
        """Hold claims for another term; also after Redis forgot them."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for digest in digests:
                    pipe.set(keys.claim(digest), self._owner, px=CLAIM_TTL)
                await pipe.execute()

    async def release(self, digests: Iterable[str]) -> None:
        """Give claims up without an outcome."""
        with store_errors():
            await self._redis.delete(*[keys.claim(digest) for digest in digests])

    async def write(self, notices: Sequence[Notice]) -> None:
        """Store new outcomes, give up their claims and tell the runs, in one round trip."""
        with store_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                told: dict[str, list[str]] = {}
                for notice in notices:
                    if notice.outcome is not None:
                        pipe.set(keys.outcome(notice.digest), encode(notice.outcome), ex=self._keep)
                        pipe.delete(keys.claim(notice.digest))
                    if notice.run_id:
                        told.setdefault(notice.run_id, []).append(notice.digest)
                for run_id, digests in told.items():
                    pipe.rpush(keys.done(run_id), *digests)
                    pipe.expire(keys.done(run_id), self._keep)
                await pipe.execute()


class OutcomeReader:
    """What a client reads of outcomes; every method raises StoreUnavailable."""

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
