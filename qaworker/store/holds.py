"""Holds: what nobody is to call for the time being, why and since when, for all workers at once.

A hold that a worker set is probed: one call every 15 s, by one worker of all, tries whether it can
be released. One that an operator set lasts until an operator releases it.
"""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from qaworker import keys, logs
from qaworker.redis_errors import left_out, store_errors

OPERATOR: Final = "operator"
BUDGET: Final = "budget"
"""Why a run is held whose budget is spent."""
BUDGET_UNKNOWN: Final = "budget_unknown"
"""Why a run is held whose budget Redis has lost."""
UNPRICED: Final = "price_unknown"
"""Why a run is held whose budget nobody can reckon with."""
PROBE_EVERY: Final = timedelta(seconds=15)
# A worker with somebody waiting looks every second.
_TRIED_WITHIN_S: Final = 5.0
LONGEST_DETAIL: Final = 300

# KEYS[1] -> holds (Hash)
# ARGV[1] -> scope
# ARGV[2] -> the hold as JSON, without its times
# ARGV[3] -> seconds until the first probe
# Output: 1 when there was no such hold, else 0
#
# It is held since the first. The latest reason stays, but no worker's replaces an operator's.
_SET: Final = """
local time = redis.call("TIME")
local now = time[1] + time[2] / 1000000
local wanted = cjson.decode(ARGV[2])
local stored = redis.call("HGET", KEYS[1], ARGV[1])
local hold = stored and cjson.decode(stored) or wanted
if stored then
  if wanted.detail ~= "" then
    hold.detail = wanted.detail
  end
  if wanted.by == "operator" or hold.by ~= "operator" then
    hold.by, hold.reason = wanted.by, wanted.reason
  end
else
  hold.since, hold.probe_at = now, now + ARGV[3]
end
redis.call("HSET", KEYS[1], ARGV[1], cjson.encode(hold))
return stored and 0 or 1
"""

# KEYS[1] -> holds (Hash)
# ARGV[1] -> scope
# ARGV[2] -> seconds until the next probe
# Output: 1 when the caller may try now, else 0
_PROBE: Final = """
local time = redis.call("TIME")
local now = time[1] + time[2] / 1000000
local stored = redis.call("HGET", KEYS[1], ARGV[1])
if not stored then
  return 0
end
local hold = cjson.decode(stored)
if hold.by == "operator" or hold.probe_at > now then
  return 0
end
hold.probe_at = now + ARGV[2]
redis.call("HSET", KEYS[1], ARGV[1], cjson.encode(hold))
return 1
"""

# KEYS[1] -> holds (Hash)
# ARGV[1] -> scope
# ARGV[2] -> the only reason to release it for; empty: any
# Output: 1 when a hold that is not an operator's was removed, else 0
_RELEASE: Final = """
local stored = redis.call("HGET", KEYS[1], ARGV[1])
local hold = stored and cjson.decode(stored)
if not hold or hold.by == "operator" or (ARGV[2] ~= "" and hold.reason ~= ARGV[2]) then
  return 0
end
return redis.call("HDEL", KEYS[1], ARGV[1])
"""

_RUN: Final = "run:"
_ACCOUNT: Final = re.compile(r"@[0-9a-f]{8}$")


class Hold(BaseModel):
    """One hold; while hosts are upgraded, versions read each other's.

    One that cannot be read at all is left out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    scope: str
    reason: str
    detail: str = ""
    """The last error, redacted and short."""
    by: str = OPERATOR
    """The worker that set it, or ``operator``."""
    since: float
    """Seconds since the epoch, by Redis."""
    probe_at: float
    """When a worker may try next, likewise; of no meaning while it is an operator's."""

    @property
    def is_operators(self) -> bool:
        """Whether only an operator releases it."""
        return self.by == OPERATOR

    def is_awaited(self, now: float) -> bool:
        """Whether somebody waits for it to end, by the clock of Redis: each try puts off the next."""
        return now - self.probe_at < _TRIED_WITHIN_S

    @property
    def kind(self) -> str:
        """``account``, ``model`` or ``run``."""
        return self.scope.partition(":")[0].partition("@")[0]

    @property
    def account(self) -> str:
        """Whose calls it holds; empty where it is a run's."""
        return "" if self.kind == "run" else self.scope.rpartition("@")[2]


def account_scope(account: str) -> str:
    """All calls of one account; see :func:`qaworker.llm.addresses.account`."""
    return f"account@{account}"


def model_scope(account: str, model: str) -> str:
    """All calls of one account to one model."""
    return f"model:{model}@{account}"


def run_scope(run_id: str) -> str:
    """All calls of one run."""
    return f"{_RUN}{run_id}"


def run_of(scope: str) -> str:
    """The run of a scope; empty when it is another's."""
    return scope.removeprefix(_RUN) if scope.startswith(_RUN) else ""


def parse_scope(text: str, account: str) -> str:
    """A scope as people write it: ``account``, ``model:NAME`` or ``run:ID``.

    ``@`` and an account may follow the first two; ``account`` is for those without.

    Raises:
        ValueError: it is none of these.
    """
    kind, _, name = text.partition(":")
    if kind == "run" and name:
        return text
    whose = _ACCOUNT.search(text)
    bare = text[: whose.start()] if whose else text
    if bare == "account" or bare.removeprefix("model:") not in {"", bare}:
        return text if whose else f"{text}@{account}"
    raise ValueError(f"{text} is none of account, model:NAME and run:ID")


def _set(scope: str, reason: str, detail: str, by: str) -> tuple[Any, ...]:
    """The arguments of the script."""
    hold = {"reason": reason, "detail": logs.redact(detail)[:LONGEST_DETAIL], "by": by}
    blob = Hold(scope=scope, since=0, probe_at=0, **hold).model_dump_json()
    return (_SET, 1, keys.holds(), scope, blob, PROBE_EVERY.total_seconds())


def _read(blobs: dict[bytes, bytes]) -> list[Hold]:
    found = [_read_one(scope.decode(), blob) for scope, blob in blobs.items()]
    return sorted(
        (hold for hold in found if hold is not None), key=lambda hold: (hold.since, hold.scope)
    )


def _read_one(scope: str, blob: bytes) -> Hold | None:
    try:
        return Hold.model_validate_json(blob)
    except ValidationError:
        left_out("hold", scope)
        return None


def set_hold(redis: Any, scope: str, reason: str, *, detail: str = "", by: str = OPERATOR) -> bool:
    """Hold a scope; returns whether it was free. Raises StoreUnavailable."""
    with store_errors():
        return bool(redis.eval(*_set(scope, reason, detail, by)))


def release(redis: Redis, scope: str) -> bool:
    """Release a scope, whoever holds it; returns whether it was held. Raises StoreUnavailable."""
    with store_errors():
        return bool(redis.hdel(keys.holds(), scope))


def release_for(redis: Any, scope: str, reason: str) -> bool:
    """Release what workers hold for this reason; False for another's. Raises StoreUnavailable."""
    with store_errors():
        return bool(redis.eval(_RELEASE, 1, keys.holds(), scope, reason))


def hold_of(redis: Any, scope: str) -> Hold | None:
    """The hold of a scope, if there is one that can be read. Raises StoreUnavailable."""
    with store_errors():
        blob = redis.hget(keys.holds(), scope)
    return None if blob is None else _read_one(scope, blob)


def holds(redis: Any) -> list[Hold]:
    """Every hold, the oldest first. Raises StoreUnavailable."""
    with store_errors():
        return _read(redis.hgetall(keys.holds()))


class WorkerHolds:
    """What a worker does with holds; every method raises StoreUnavailable."""

    def __init__(self, redis: AsyncRedis, *, worker: str, keep: timedelta) -> None:
        """Prepare for a worker; runs are held for ``keep``, as long as anything is known of them."""
        # Its answers are typed for every option of the client.
        self._redis: Any = redis
        self._worker = worker
        self._keep_s = keep.total_seconds()

    async def set_hold(self, scope: str, reason: str, *, detail: str = "") -> bool:
        """Hold a scope, or say why it is held now; returns whether it was free."""
        with store_errors():
            return bool(await self._redis.eval(*_set(scope, reason, detail, self._worker)))

    async def release(self, scope: str) -> bool:
        """Release what a worker held, as a call shows that succeeded; False for an operator's."""
        with store_errors():
            return bool(await self._redis.eval(_RELEASE, 1, keys.holds(), scope, ""))

    async def holds(self) -> list[Hold]:
        """Every hold, the oldest first; what was kept of runs for long enough is released."""
        with store_errors():
            found = _read(await self._redis.hgetall(keys.holds()))
        # This host's clock may be wrong by minutes; these are days.
        oldest = time.time() - self._keep_s
        return [
            hold
            for hold in found
            if hold.kind != "run" or hold.since > oldest or not await self.release(hold.scope)
        ]

    async def next_probe(self, scope: str, every: timedelta = PROBE_EVERY) -> bool:
        """Whether this worker is the one that may try now; then nobody else may for ``every``."""
        seconds = every.total_seconds()
        with store_errors():
            return bool(await self._redis.eval(_PROBE, 1, keys.holds(), scope, seconds))
