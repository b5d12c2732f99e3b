"""What operators read of the calls to the API: what is held, what died, how fast they may go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from gettext import gettext as _

from qaworker.cli.table import printable, table
from qaworker.limits.states import Kind, LimiterState
from qaworker.status.picture import Shared, Worker
from qaworker.status.spans import clock, spoken
from qaworker.store.holds import BUDGET, BUDGET_UNKNOWN, PROBE_EVERY, UNPRICED, Hold


def held(shared: Shared, workers: Sequence[Worker]) -> Iterator[str]:
    """Two lines for each hold, accounts first: what is held and why, and what ends it."""
    accounts = {worker.account for worker in workers if worker.is_living}
    for hold in sorted(shared.holds, key=lambda hold: hold.kind):  # as the alphabet has it
        why = f"{hold.reason}: {hold.detail}" if hold.detail else hold.reason
        yield _("Held: {scope} since {since} ({span}): {why}").format(
            scope=printable(hold.scope),
            since=clock(hold.since),
            span=spoken(max(0.0, shared.asked_at - hold.since)),
            why=printable(why),
        )
        is_used = not hold.account or not accounts or hold.account in accounts
        scope, every_s = printable(hold.scope), PROBE_EVERY.total_seconds()
        remedy = _remedy(hold, is_used=is_used, is_awaited=hold.is_awaited(shared.asked_at))
        yield "  " + remedy.format(scope=scope, every_s=every_s)


def _remedy(hold: Hold, *, is_used: bool, is_awaited: bool) -> str:
    if not is_used and hold.is_operators:
        return _("no worker uses this account any more: `qaworker hold release {scope}` clears it")
    if not is_used:
        return _(
            "no worker uses this account any more: workers release it in some minutes, or now"
            " `qaworker hold release {scope}`"
        )
    if hold.is_operators:
        return _("an operator holds it, until `qaworker hold release {scope}`")
    if hold.kind == "run":
        texts = {
            BUDGET: _("the run goes on with its own command and a larger --budget"),
            BUDGET_UNKNOWN: _(
                "the run goes on with its own command, or `qaworker collect RUN_DIR`"
            ),
            UNPRICED: _(
                "once the workers' QAWORKER_PRICES_FILE has the price, the run goes on with its own"
                " command (a file they do not have yet takes `start_celery.sh restart`)"
            ),
        }
        return texts.get(hold.reason) or _("`qaworker hold release {scope}` lets it go on")
    if not is_awaited:
        return _(
            "no worker has work for it: the next call tries it, or it ends by itself within 5 minutes"
            " (`qaworker hold release {scope}` ends it at once)"
        )
    if hold.reason == "halted":
        return _(
            "correct the account: one call every {every_s:g} s tries it, and work goes on by itself"
            " (`qaworker hold release {scope}` tries at once; a new key takes"
            " `start_celery.sh restart`)"
        )
    if hold.kind == "model":
        return _(
            "correct the model, or take its run back with `qaworker cancel`: one call every"
            " {every_s:g} s tries it, and work goes on by itself (`qaworker hold release {scope}`"
            " tries at once)"
        )
    return _(
        "one call every {every_s:g} s tries, and work goes on by itself"
        " (`qaworker hold release {scope}` tries at once)"
    )


def dead(shared: Shared) -> str:
    """One line on dead letters."""
    if not shared.dead_letters:
        return _("Dead letters: {count}").format(count=0)
    return _(
        "Dead letters: {count}, of the last hour: {recent} (`qaworker dead list` says why)"
    ).format(count=shared.dead_letters, recent=shared.dead_recently)


def limiters(shared: Shared) -> str:
    """A line for each model that was called within the hour."""
    headings = (_("model"), _("requests/min"), _("tokens/min"), _("granted"), _("state"))
    is_one = len({limiter.account for limiter in shared.limiters}) == 1
    rows = [
        (
            printable(limiter.model if is_one else f"{limiter.model}@{limiter.account}"),
            _per_minute(limiter.requests),
            _per_minute(limiter.tokens),
            limiter.open_reservations,
            ", ".join(_states(limiter, shared.asked_at)),
        )
        for limiter in shared.limiters
    ]
    return table(headings, rows)


def _per_minute(kind: Kind) -> str:
    return f"{kind.per_minute:.15g} ({kind.said_by})" if kind.per_minute else _("no limit")


def _states(limiter: LimiterState, now: float) -> Iterator[str]:
    if limiter.paused_until is not None:
        yield _("the provider wants a pause until {until}").format(
            until=clock(limiter.paused_until)
        )
    if limiter.waits_since is not None:
        span = spoken(max(0.0, now - limiter.waits_since))
        yield _("at its limit for {span}").format(span=span)
    elif limiter.paused_until is None:
        is_limited = limiter.requests.per_minute or limiter.tokens.per_minute
        yield _("below its limit") if is_limited else "-"
    if limiter.share < 1:
        yield _("slowed to {share:.0%}").format(share=limiter.share)
