"""What is wrong: each check goes from what is seen to a problem, or to none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from gettext import gettext as _
from typing import Final, Literal

from qaworker.status.picture import Status
from qaworker.status.spans import clock, spoken

Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Beyond these it is a problem."""

    queue_length: int = 100
    message_age_s: float = 600.0
    heartbeat_age_s: float = 60.0
    call_wait_s: float = 120.0
    dead_letters: int = 0
    """Of the last hour."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What one check found wrong."""

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    look: Callable[[Status, Limits], Problem | None]
    needs_redis: bool = True
    sightings: int = 1
    """How many looks in a row must see it before somebody is told."""


Findings = dict[str, Problem | None]
"""By the name of the check; a check that could not be made is missing."""


def judge(seen: Status, limits: Limits, names: frozenset[str]) -> Findings:
    """Make those of the checks that are named and can be made."""
    return {
        name: check.look(seen, limits)
        for name, check in CHECKS.items()
        if name in names and not (check.needs_redis and seen.redis_error)
    }


def _redis(seen: Status, _limits: Limits) -> Problem | None:
    if not seen.redis_error:
        return None
    return Problem("critical", _("Redis is away: {error}").format(error=seen.redis_error))


def _queue_length(seen: Status, limits: Limits) -> Problem | None:
    texts = [
        _("messages waiting in {queue}: {length} (more than {limit})").format(
            length=queue.ready, queue=queue.name, limit=limits.queue_length
        )
        for queue in seen.queues
        if queue.ready > limits.queue_length
    ]
    return Problem("warning", "; ".join(texts)) if texts else None


def _message_age(seen: Status, limits: Limits) -> Problem | None:
    texts = [
        _("a message has waited in {queue} for {span} (more than {limit})").format(
            queue=queue.name,
            span=spoken(queue.oldest_age_s),
            limit=spoken(limits.message_age_s),
        )
        for queue in seen.queues
        if queue.oldest_age_s is not None and queue.oldest_age_s > limits.message_age_s
    ]
    return Problem("warning", "; ".join(texts)) if texts else None


def _workers(seen: Status, _limits: Limits) -> Problem | None:
    expected = seen.expected_by_host
    is_stopped = bool(expected) and not any(expected.values())
    if is_stopped or any(worker.is_living for worker in seen.everyone):
        return None
    return Problem(
        "critical", _("no worker lives, messages waiting: {length}").format(length=seen.length)
    )


def _heartbeat(seen: Status, limits: Limits) -> Problem | None:
    texts = [
        _("{name} has given no sign of life for {span} (more than {limit})").format(
            name=worker.name,
            span=spoken(worker.heartbeat_age_s),
            limit=spoken(limits.heartbeat_age_s),
        )
        for worker in seen.everyone
        if worker.heartbeat_age_s is not None
        and worker.heartbeat_age_s > limits.heartbeat_age_s
        # One that was killed and is not to run any more is nobody's concern.
        and worker.number <= seen.expected_by_host.get(worker.host, worker.number)
    ]
    return Problem("warning", "; ".join(texts)) if texts else None


def _expected(seen: Status, _limits: Limits) -> Problem | None:
    living = Counter(worker.host for worker in seen.everyone if worker.is_living)
    texts = [
        _("{living} of {expected} workers live on {host}").format(
            living=living[host], expected=expected, host=host
        )
        for host, expected in sorted(seen.expected_by_host.items())
        if living[host] < expected
    ]
    return Problem("warning", "; ".join(texts)) if texts else None


def _quiet(seen: Status, _limits: Limits) -> Problem | None:
    states = {worker.state for worker in seen.everyone}
    if "quiet" not in states or "consuming" in states:
        return None
    text = _("no worker takes messages, as they were told: `qaworker drain --resume` lets them")
    return Problem("warning", text)


def _held(seen: Status, _limits: Limits) -> Problem | None:
    # A run that is held waits for whoever gave its command.
    holds = [*seen.shared.account_holds(seen.everyone)]
    holds += [hold for hold in seen.shared.holds if hold.kind == "model"]
    if not holds:
        return None
    texts = [
        _("{scope} is held since {since}: {why} (`qaworker status` says what to do)").format(
            scope=hold.scope, since=clock(hold.since), why=hold.detail or hold.reason
        )
        for hold in holds
    ]
    is_grave = any(hold.kind == "account" and not hold.is_operators for hold in holds)
    return Problem("critical" if is_grave else "warning", "; ".join(texts))


def _limiter(seen: Status, limits: Limits) -> Problem | None:
    texts = [
        _("the provider lets nobody call {model} until {until}").format(
            model=limiter.model, until=clock(limiter.paused_until)
        )
        for limiter in seen.shared.limiters
        if limiter.paused_until is not None
    ]
    texts += [
        _("calls of {name} have waited for {span} (more than {limit})").format(
            name=worker.name, span=spoken(worker.oldest_wait_s), limit=spoken(limits.call_wait_s)
        )
        for worker in seen.everyone
        if worker.is_living and worker.oldest_wait_s > limits.call_wait_s
    ]
    return Problem("warning", "; ".join(texts)) if texts else None


def _dead_letters(seen: Status, limits: Limits) -> Problem | None:
    if seen.shared.dead_recently <= limits.dead_letters:
        return None
    text = _(
        "dead letters of the last hour: {recent} (more than {limit}), in all: {count}"
        " (`qaworker dead list` says why)"
    )
    recent, count = seen.shared.dead_recently, seen.shared.dead_letters
    return Problem("warning", text.format(recent=recent, limit=limits.dead_letters, count=count))


CHECKS: Final = {
    "redis": Check(_redis, needs_redis=False),
    "workers": Check(_workers),
    "held": Check(_held),
    # A worker that is being replaced is away for some seconds.
    "expected": Check(_expected, sightings=2),
    # Somebody may be at work on something.
    "quiet": Check(_quiet, sightings=2),
    "heartbeat": Check(_heartbeat),
    "queue-length": Check(_queue_length),
    "message-age": Check(_message_age),
    # A short pause is how a provider says that its limit is another.
    "limiter": Check(_limiter, sightings=2),
    "dead-letters": Check(_dead_letters),
}
"""By name, the gravest first."""


def sightings(name: str) -> int:
    """How many looks in a row must see a problem before somebody is told."""
    return CHECKS[name].sightings if name in CHECKS else 1
