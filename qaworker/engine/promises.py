"""What this process is generating: claims in Redis, and a future of each outcome for its batches.

A digest is promised before Redis is asked for it, so that no two batches of a process ask at once,
and only claims that were granted are renewed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from qaworker import logs
from qaworker.errors import StoreUnavailable
from qaworker.models import Outcome
from qaworker.store.outcomes import CLAIM_TTL, Claims, OutcomeStore, Spent

log = logs.get(__name__)

RETRY_S = 1.0
# Four renewals fit into a term.
RENEW_S = CLAIM_TTL.total_seconds() / 4

Promised = asyncio.Future[Outcome | None]
"""The outcome, or None for a chunk that was handed back."""


class Promises:
    """The digests this process generates or is asking for; belongs to one event loop."""

    def __init__(self, store: OutcomeStore) -> None:
        self._store = store
        self._futures: dict[str, Promised] = {}
        self._held: set[str] = set()
        """Claims that Redis granted."""

    def of(self, digests: Iterable[str]) -> dict[str, Promised]:
        """The futures of those that are promised."""
        return {d: self._futures[d] for d in digests if d in self._futures}

    async def claim(self, digests: Sequence[str], run_id: str) -> Claims:
        """Claim digests that nobody here has promised.

        Raises:
            StoreUnavailable: none of them is claimed.
        """
        claims = Claims()
        if not digests:
            return claims
        loop = asyncio.get_running_loop()
        self._futures |= {digest: loop.create_future() for digest in digests}
        try:
            claims = await self._store.claim(digests, run_id)
        finally:
            self._held.update(claims.claimed)
            for digest in set(digests).difference(claims.claimed):
                self._end(digest, claims.known.get(digest))
        return claims

    def keep(self, outcome: Outcome) -> None:
        """Hand out an outcome that is written; its claim went with the write."""
        self._end(outcome.digest, outcome)

    async def give_up(
        self, digests: Sequence[str], spent: Mapping[str, Spent], run_id: str
    ) -> None:
        """Let others claim what has no outcome, and leave them what the run spent on it."""
        if not digests:
            return
        self._held.difference_update(digests)
        try:
            with suppress(StoreUnavailable):  # claims expire by themselves
                await self._store.spend({d: spent[d] for d in digests if d in spent}, run_id)
                await self._store.release(digests)
        finally:
            for digest in digests:
                self._end(digest, None)

    async def hold(self) -> None:
        """Renew what is claimed, until cancelled."""
        delay_s = RENEW_S
        while True:
            await asyncio.sleep(delay_s)
            delay_s = RENEW_S if await self._renewed() else RETRY_S

    async def _renewed(self) -> bool:
        held = tuple(self._held)
        try:
            await self._store.renew(held)
            # Those given up or written in the meantime may have been claimed again by the renewal.
            await self._store.release([d for d in held if d not in self._futures])
        except StoreUnavailable as error:
            log.warning("claims_not_renewed", claims=len(held), error=str(error))
            return False
        except Exception:  # without this task every claim would expire unnoticed
            log.exception("claims_not_renewed", claims=len(held))
            return False
        return True

    def _end(self, digest: str, outcome: Outcome | None) -> None:
        self._held.discard(digest)
        self._futures.pop(digest).set_result(outcome)
