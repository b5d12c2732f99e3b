"""What the limiters are doing, for those who watch: read from Redis, changing nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import Redis

from qaworker import keys
from qaworker.limits.limiter import BURST_MS
from qaworker.redis_errors import left_out, store_errors


@dataclass(frozen=True, slots=True)
class Kind:
    """One limit; all numbers in requests or in tokens."""

    per_minute: float
    """In force; 0 for no limit."""
    said_by: str
    """``table``, ``guess``, ``file``, ``environment``, ``provider``, or ``none``."""
    available: float
    """What may begin now; negative while a debt is being paid back, 0 where there is no limit."""


@dataclass(frozen=True, slots=True)
class LimiterState:
    """One model of one account; moments are seconds since the epoch by the clock of Redis."""

    account: str
    model: str
    requests: Kind
    tokens: Kind
    share: float
    """Of the limits that is used: less than 1 for a while after the provider said 429."""
    open_reservations: int
    paused_until: float | None
    waits_since: float | None
    """Since when somebody has to wait; None when nobody has."""


def limiter_states(redis: Redis) -> list[LimiterState]:
    """Every limiter that was used within the hour, by account and model.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    # Its answers are typed for every option of the client; ours are always bytes.
    client: Any = redis
    with store_errors():
        names = sorted(name.decode() for name in client.zrange(keys.limiters(), 0, -1))
        places = [name.split(":", 1) for name in names]
        with client.pipeline(transaction=False) as pipe:
            pipe.time()
            for account, model in places:
                pipe.hgetall(keys.limiter(account, model))
                pipe.zcard(keys.limiter_reservations(account, model))
            (seconds, microseconds), *answers = pipe.execute()
    now_ms = seconds * 1000 + microseconds / 1000
    found = [
        _read(account, model, stored, opened, now_ms)
        for (account, model), stored, opened in zip(
            places, answers[::2], answers[1::2], strict=True
        )
        if stored
    ]
    return [state for state in found if state is not None]


def _read(
    account: str, model: str, stored: dict[bytes, bytes], opened: int, now_ms: float
) -> LimiterState | None:
    """A limiter's state, unless it is of a version that keeps it otherwise."""
    try:
        return _state(account, model, stored, opened, now_ms)
    except (KeyError, ValueError):
        left_out("limiter", f"{account}:{model}")
        return None


def _state(
    account: str, model: str, stored: dict[bytes, bytes], opened: int, now_ms: float
) -> LimiterState:
    state = {name.decode(): value.decode() for name, value in stored.items()}
    paused_until_ms, waits_until_ms = float(state["paused_until"]), float(state["waits_until"])
    return LimiterState(
        account=account,
        model=model,
        requests=_kind(state, "requests", now_ms),
        tokens=_kind(state, "tokens", now_ms),
        share=float(state["speed"]),
        open_reservations=opened,
        paused_until=paused_until_ms / 1000 if paused_until_ms > now_ms else None,
        waits_since=float(state["waits_since"]) / 1000 if waits_until_ms > now_ms else None,
    )


def _kind(state: dict[str, str], name: str, now_ms: float) -> Kind:
    rate = float(state[f"{name}_rate"])
    filled = float(state[name] or 0) + max(0.0, now_ms - float(state["at"])) * rate
    return Kind(
        per_minute=float(state[f"{name}_limit"]),
        said_by=state[f"{name}_from"],
        available=min(rate * BURST_MS, filled),
    )
