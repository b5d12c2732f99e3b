"""The rate limiter that all workers share: reserves requests and tokens, and settles them.

The provider takes a request, the prompt's tokens and the whole output cap when it admits a call,
and gives back what the answer did not use when it is made. So does this limiter, a little later:
whatever it lets through, the provider has room for. And as both charge real usage in the end, no
guess of how long answers will be is needed to reach the limit.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import count
from typing import Any, Final

from redis.asyncio import Redis

from qaworker import keys
from qaworker.errors import ChunkTooLarge
from qaworker.limits.rates import Origin, RateTable
from qaworker.redis_errors import store_errors

# What is left lets the provider's bucket get ahead of ours by 5 ms a second, so that calls which
# arrive late, and all at once, find room again before long.
HEADROOM: Final = 0.995
# A strict provider holds one second of the rate: calls may be delayed by the other 900 ms.
BURST_MS: Final = 100
# Nobody learns that Redis is away before he asks again: until then calls begin that were granted.
HORIZON_S: Final = 0.3
# Limits may have changed in the meantime, upward too.
ASK_AGAIN_S: Final = 5.0
MOST_RESERVATIONS: Final = 64

# Up to half of what a strict provider holds, the other half makes up for what is known too late.
_LARGE_MS: Final = 500
# Timers are as exact.
_LARGE_HORIZON_MS: Final = 10
# Beyond it the provider's bucket must be full, and by so much calls are late on their way.
_WHOLE_MS: Final = 800
_ARRIVE_MS: Final = 60
# Several times in it a process asks for small calls, which seldom wait for so long.
_PATIENCE_MS: Final = 500
# Up to this cost small and large ones share the rate alike, beyond it nobody waits much longer.
_MOST_PATIENCE_MS: Final = 2000
# A tenth of a call that is large.
_FIRST_AGAIN_MS: Final = 50
# A loop is late by less. Who goes away keeps others waiting so long at most: it is no longer than
# anybody's patience, so that a claim is gone before it comes first.
_GONE_MS: Final = 500
# With every answer it is told anew; who raises a limit does not wait for long.
_REPORTED_MS: Final = 600_000
# A debt, a slower rate and a pause are over by then.
_KEEP_MS: Final = 3_600_000
# After a 429 the provider's bucket is empty: in this time it gets ahead of ours again.
_PAUSE_MARGIN_S: Final = 0.5
# A provider that wants more says it again.
_MOST_PAUSE_S: Final = 120.0
# As far as it takes to come down to half of a limit in four seconds of 429s.
_SLOWING: Final = 0.8
# Where the limit is known a 429 is bad luck, or another program of the same account.
_SLOWING_KNOWN: Final = 0.95
# However often it is said.
_SLOWEST: Final = 0.05
_RECOVERY_MS: Final = 60_000
# An answer may wait to be settled for as long, beyond what its call may take.
_GRACE_S: Final = 30.0
# Beyond any context; a number that is none must not empty a bucket for hours.
_MOST_TOKENS: Final = 10_000_000
# So often the same is told, as Redis may have forgotten it.
_TELL_AGAIN_S: Final = 30.0
_SET_BY_HAND: Final = ("environment", "file")
_SAID_BY: Final[dict[str, str]] = {
    "table": "as the table of known limits has it",
    "guess": "as the least of all known limits",
    "file": "as QAWORKER_LIMITS_FILE has it",
    "environment": "as QAWORKER_TPM has it",
    "provider": "as the provider reported",
}

_CONSTANTS: Final[dict[str, Any]] = {
    "headroom": HEADROOM,
    "burst_ms": BURST_MS,
    "horizon_ms": HORIZON_S * 1000,
    "large_ms": _LARGE_MS,
    "large_horizon_ms": _LARGE_HORIZON_MS,
    "again_ms": ASK_AGAIN_S * 1000,
    "whole_ms": _WHOLE_MS,
    "arrive_ms": _ARRIVE_MS,
    "patience_ms": _PATIENCE_MS,
    "most_patience_ms": _MOST_PATIENCE_MS,
    "first_again_ms": _FIRST_AGAIN_MS,
    "gone_ms": _GONE_MS,
    "keep_ms": _KEEP_MS,
    "reported_ms": _REPORTED_MS,
    "most_pause_ms": _MOST_PAUSE_S * 1000,
    "slowing": _SLOWING,
    "slowing_known": _SLOWING_KNOWN,
    "slowest": _SLOWEST,
    "recovery_ms": _RECOVERY_MS,
}

Reported = tuple[float | None, float | None]
"""Requests and tokens a minute."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a reservation gives back; tokens are negative where more were used."""

    reservation: str
    tokens_back: int
    requests_back: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A reservation: one call may begin in ``wait_s`` seconds."""

    reservation: str
    tokens: int
    wait_s: float

    def used(self, tokens: int) -> Settlement:
        """The provider charged so many tokens for the call; what is no such number says nothing."""
        back = self.tokens - tokens if 0 <= tokens <= _MOST_TOKENS else 0
        return Settlement(self.reservation, back, 0)

    def unused(self) -> Settlement:
        """The call was never made."""
        return Settlement(self.reservation, self.tokens, 1)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What became of the first of the reservations asked for; the rest is refused."""

    answers: tuple[Grant | ChunkTooLarge, ...]
    """In their order. Some are refused for good: they exceed what the provider admits in a minute."""
    refused_wait_s: float | None
    """When the first that was refused would have been granted; None when none was."""


class Limiter:
    """The limits of one provider account, for one event loop."""

    def __init__(
        self,
        redis: Redis,
        account: str,
        rates: RateTable,
        *,
        longest_call_s: float = 100.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            redis: that all workers use; its clock is the one that counts.
            account: names the account, without a colon (:func:`qaworker.llm.addresses.account`).
            rates: limits to begin with.
            longest_call_s: a reservation that is open for longer is charged in full.
            clock: seconds; only for how often the same limits are told again.
        """
        source = resources.files(__package__).joinpath("exchange.lua").read_text(encoding="utf-8")
        self._script: Any = redis.register_script(source)
        self._account = account
        self._rates = rates
        self._open_ms = round((longest_call_s + _GRACE_S) * 1000)
        # No other process, and no later one, makes the same reservations.
        self._name = secrets.token_hex(6)
        self._numbers = count(1)
        self._clock = clock
        self._told: dict[str, tuple[Reported, float]] = {}

    async def exchange(
        self, model: str, settle: Sequence[Settlement], reserve: Sequence[int]
    ) -> Exchanged:
        """Settle, then reserve a request and so many tokens for each call, in order, in one step.

        A call that would have to wait for more than HORIZON_S is refused, with all after it, and
        takes nothing. Settling twice does nothing, so what may have got lost is settled again; a
        grant that got lost is charged in full.

        Args:
            model: the model to ask.
            settle: what earlier calls gave back.
            reserve: prompt and output cap of each call, in tokens; MOST_RESERVATIONS at most.

        Raises:
            StoreUnavailable: Redis does not answer: nobody may call.
            ValueError: a number that is none of tokens.
        """
        if len(reserve) > MOST_RESERVATIONS:
            raise ValueError(f"at most {MOST_RESERVATIONS} reservations at once")
        asked = [(f"{self._name}-{next(self._numbers)}", _tokens(tokens)) for tokens in reserve]
        answer = await self._run(model, settle=settle, reserve=asked)
        tpm, said_by, refused_ms, *waits_ms = answer
        answers = tuple(
            Grant(name, tokens, wait_ms / 1000)
            if wait_ms >= 0
            else _too_large(tokens, model, tpm, said_by.decode())
            for (name, tokens), wait_ms in zip(asked, waits_ms, strict=False)
        )
        return Exchanged(answers, refused_ms / 1000 if refused_ms >= 0 else None)

    async def pause(self, model: str, seconds: float) -> None:
        """Let nobody call for a while, as a 429 asks, and be slower afterwards; raises as exchange.

        Never shortens a pause. Tell :meth:`learn` first what its headers said: when it was the
        limit that was wrong, nobody needs to be slower than the right one.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"cannot pause for {seconds} s")
        await self._run(model, pause_s=seconds + _PAUSE_MARGIN_S)

    async def learn(self, model: str, rpm: float | None, tpm: float | None) -> None:
        """Take the limits that the provider reports as those in force; raises as exchange.

        They replace the table's, upward and downward; of limits that were set by hand, they only
        lower. When nobody says them for ten minutes they are forgotten. None is what it did not say. The same again costs nothing.
        """
        for per_minute in (rpm, tpm):
            if per_minute is not None and not 0 < per_minute < math.inf:
                raise ValueError(f"{per_minute} a minute is no limit")
        said = (rpm, tpm)
        before, told_at = self._told.get(model, ((None, None), -math.inf))
        if said == (None, None) or (said == before and self._clock() - told_at < _TELL_AGAIN_S):
            return
        await self._run(model, reported=said)
        self._told[model] = (said, self._clock())

    async def _run(
        self,
        model: str,
        *,
        settle: Sequence[Settlement] = (),
        reserve: Sequence[tuple[str, int]] = (),
        pause_s: float | None = None,
        reported: Reported = (None, None),
    ) -> Any:
        rates = self._rates.of(model)
        ask: dict[str, Any] = _CONSTANTS | {
            "name": f"{self._account}:{model}",
            "asker": self._name,
            "requests": _kind(rates.rpm, rates.rpm_from, reported[0]),
            "tokens": _kind(rates.tpm, rates.tpm_from, reported[1]),
            "open_ms": self._open_ms,
            "settle": [(one.reservation, one.tokens_back, one.requests_back) for one in settle],
            "reserve": reserve,
        }
        if pause_s is not None:
            ask["pause_ms"] = pause_s * 1000
        names = [
            keys.limiter(self._account, model),
            keys.limiter_reservations(self._account, model),
            keys.limiters(),
        ]
        with store_errors():
            return await self._script(keys=names, args=[json.dumps(ask)])


def _kind(per_minute: float, origin: Origin, reported: float | None) -> dict[str, Any]:
    kind: dict[str, Any] = {
        "per_minute": per_minute,
        "from": origin,
        "is_ceiling": origin in _SET_BY_HAND,
    }
    if reported is not None:  # the script's JSON has a null that is true
        kind["reported"] = reported
    return kind


def check_size(tokens: int) -> None:
    """Raise ChunkTooLarge for what no provider admits, before it is asked for with others."""
    if tokens > _MOST_TOKENS:
        raise ChunkTooLarge(
            f"the prompt and its output cap are more than {_MOST_TOKENS:,} tokens: make chunks smaller"
            " with --max-tokens"
        )


def _tokens(tokens: int) -> int:
    if not 0 <= tokens <= _MOST_TOKENS:
        raise ValueError(f"{tokens} is no number of tokens")
    return tokens


def _too_large(tokens: int, model: str, tpm: int, said_by: str) -> ChunkTooLarge:
    return ChunkTooLarge(
        f"the prompt and its output cap are {tokens} tokens, and {model} admits {tpm} a minute,"
        f" {_SAID_BY[said_by]}: make chunks smaller with --max-tokens, or have fewer in a prompt with"
        " --batch-chunks"
    )
