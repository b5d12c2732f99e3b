"""What a run may cost: the plan that is shown before it, the question, and the hard budget."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import timedelta

import click
from redis import Redis
from rich.console import Console

from qaworker.cli import plan as planned
from qaworker.client.budget import Budget
from qaworker.client.intake import Request
from qaworker.client.planning import Plan, answered_in, make_plan
from qaworker.llm.prices import MICROS, dollars, require_price
from qaworker.settings import Settings
from qaworker.store.connections import connect
from qaworker.store.ledger import Ledger
from qaworker.store.outcomes import OutcomeReader


def check(settings: Settings, model: str, budget: int | None) -> None:
    """Raise ConfigError when a budget is given for a model without a price."""
    if budget is not None:
        require_price(model, settings.prices_file)


def plan_of(
    console: Console,
    settings: Settings,
    request: Request,
    ledger: Ledger,
    redis: Redis,
    processes: int,
) -> Plan:
    """What the chunks of a run will take that have no outcome, asked by so many processes."""
    terms = planned.terms(settings, request, processes, redis)
    with console.status("reckoning what it takes"):
        plan = make_plan(ledger.unsettled(), terms, known=[answered_in(OutcomeReader(redis))])
    chunks = ledger.counts().chunks
    return replace(plan, chunks=chunks, known=chunks - (plan.chunks - plan.known))


def is_wanted(console: Console, settings: Settings, plan: Plan, *, is_confirmed: bool) -> bool:
    """Show the plan in a line, and ask whether to go on where it costs much; what was answered.

    Without a terminal nobody is asked, and it goes on: a nightly run must not hang, nor fail on the
    day its data has grown. What bounds a script is a budget.

    Args:
        console: where people read.
        settings: of this command.
        plan: of the run.
        is_confirmed: somebody said so already, or gave a budget.
    """
    if plan.calls:
        console.print(planned.plan_line(plan), markup=False, soft_wrap=True)
    cost_micros = plan.cost_micros or 0
    is_large = cost_micros > settings.confirm_usd * MICROS
    if not is_large or is_confirmed or not (sys.stdin.isatty() and console.is_terminal):
        return True
    if click.confirm(f"spend about {dollars(cost_micros)}?", err=True):
        return True
    console.print("nothing was sent")
    return False


def open_budget(settings: Settings, ledger: Ledger, redis: Redis, micros: int | None) -> Budget:
    """The budget of a run: the one given, else the one it was given before, else none.

    Raises:
        ConfigError: it cannot have this one, or its model has no price.
    """
    price = None
    if micros is not None or ledger.budget_micros is not None:
        price = require_price(ledger.description["model"], settings.prices_file)
    budget = Budget(redis, ledger, price, keep=timedelta(days=settings.outcome_days))
    if micros is not None:
        with connect(settings.broker_url or settings.redis_url) as broker:
            budget.set(micros, broker)
    budget.resume()
    return budget
