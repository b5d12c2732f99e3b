"""``qaworker plan``: what a dataset will take, before anything is spent."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from redis import Redis
from rich.console import Console

from qaworker import logs, settings
from qaworker.cli import amounts, progress, scopes
from qaworker.cli.fitting import NOTHING, Spent, spent_of, verdict
from qaworker.cli.request import read_request, request_options
from qaworker.client.intake import Intake, Request
from qaworker.client.planning import (
    LATENCY_S,
    Known,
    Plan,
    Terms,
    answered_in,
    make_plan,
)
from qaworker.errors import ExitCode, RunDirectoryError, StoreUnavailable
from qaworker.limits.rates import Rates, rate_table
from qaworker.limits.states import limiter_states
from qaworker.llm.prices import dollars, price_of, require_price, unknown_price
from qaworker.settings import Settings
from qaworker.status.spans import spoken
from qaworker.store import heartbeats
from qaworker.store.connections import connect, require
from qaworker.store.database import DATABASE_NAME
from qaworker.store.looking import Seen, look
from qaworker.store.outcomes import OutcomeReader

# Who plans may have no Redis yet, and should not wait for it.
_REDIS_TIMEOUT_S: Final = 2.0


@click.command("plan")
@request_options
@click.option("--use-celery", is_flag=True, help="Reckon with the worker processes that answer.")
@click.option("--celery-workers", type=click.IntRange(1), help="Reckon with so many of them.")
@amounts.budget_option
@amounts.yes_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def command(
    *,
    use_celery: bool,
    celery_workers: int | None,
    budget: int | None,
    as_json: bool,
    yes: bool,  # noqa: ARG001, an option of generate; here nobody is asked
    **options: Any,
) -> int:
    """Show what `generate` with the same options will take: calls, tokens, dollars and time.

    Nothing is sent, spent or written. What the run or Redis knows already costs nothing; without
    Redis all is taken for new. With --budget it says whether the run fits in so much, with what it
    has spent already.
    """
    values = settings.load()
    logs.configure("warning", values.log_format)
    request, directory = read_request(values, options)
    if budget is not None:
        require_price(request.model, values.prices_file)
    console = progress.console()
    with ExitStack() as stack:
        redis = _redis(stack, console, values)
        seen = _look(console, directory)
        known: list[Known] = [] if redis is None else [answered_in(OutcomeReader(redis))]
        if seen is not None:
            # Also where Redis has forgotten it.
            known.append(seen.settled.intersection)
        spent = spent_of(seen, redis, price_of(request.model, values.prices_file))
        living = len(heartbeats.living(redis)) if redis is not None else 0
        processes = celery_workers or (living if use_celery else 1) or 1
        with progress.reading(console) as on_document:
            intake = Intake(request, on_document)
            plan = make_plan(intake, terms(values, request, processes, redis), known=known)
    if plan.cost_micros is None:
        console.print(
            unknown_price(request.model, values.prices_file),
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    read = {"documents": intake.documents, "skipped_rows": intake.skipped_rows}
    if as_json:
        click.echo(json.dumps(read | described(plan, budget, spent)))
    else:
        click.echo(page(plan, budget=budget, spent=spent, **read))
    return ExitCode.OK


def terms(values: Settings, request: Request, processes: int, redis: Redis | None) -> Terms:
    """What a request's calls are made with, by so many processes.

    Args:
        values: of this command.
        request: that is planned.
        processes: that will work on it.
        redis: where the limits stand that the provider said; None while it is away.

    Raises:
        ConfigError: a file of prices or limits is wrong.
        StoreUnavailable: ``redis`` does not answer.
    """
    rates = rate_table(
        request.config.base_url, file=values.limits_file, rpm=values.rpm, tpm=values.tpm
    )
    return Terms(
        model=request.model,
        config=request.config,
        price=price_of(request.model, values.prices_file),
        rates=_corrected(rates.of(request.model), values, request.model, redis),
        calls_in_flight=processes * values.calls_in_flight,
    )


def _corrected(rates: Rates, values: Settings, model: str, redis: Redis | None) -> Rates:
    """The limits as the provider said them with its answers, where it did within the hour."""
    if redis is None:
        return rates
    own = scopes.account_meant(values, scopes.accounts_in_use(redis))
    for state in limiter_states(redis):
        if (state.account, state.model) == (own, model):
            if state.requests.said_by == "provider":
                rates = replace(rates, rpm=state.requests.per_minute, rpm_from="provider")
            if state.tokens.said_by == "provider":
                rates = replace(rates, tpm=state.tokens.per_minute, tpm_from="provider")
    return rates


def _redis(stack: ExitStack, console: Console, values: Settings) -> Redis | None:
    """None while it is away."""
    redis: Redis = stack.enter_context(connect(values.redis_url, timeout_s=_REDIS_TIMEOUT_S))
    try:
        require(redis)
    except StoreUnavailable as error:
        console.print(f"taking all for new: {error}", style="yellow", markup=False, soft_wrap=True)
        return None
    return redis


def _look(console: Console, directory: Path) -> Seen | None:
    """What the run has recorded; None where there is none yet."""
    # Path.is_file() raises where a name is longer than a file's can be.
    if os.path.isfile(directory / DATABASE_NAME):  # noqa: PTH113
        try:
            return look(directory)
        except RunDirectoryError as error:
            console.print(
                f"not looking into the run: {error}", style="yellow", markup=False, soft_wrap=True
            )
    return None


def plan_line(plan: Plan) -> str:
    """The plan in one line, for a command that then goes on."""
    known = f" ({plan.known:,} known already)" if plan.known else ""
    parts = (
        f"plan: {plan.chunks:,} chunks{known}, {plan.calls:,} calls",
        f"{plan.input_tokens:,} tokens in, about {plan.output_tokens:,} out",
        _cost(plan),
        f"about {spoken(plan.seconds)}{_doubt(plan.terms.rates)}",
    )
    return "; ".join(parts)


def page(
    plan: Plan,
    *,
    documents: int,
    skipped_rows: int,
    budget: int | None = None,
    spent: Spent = NOTHING,
) -> str:
    """Everything a person could want."""
    skipped = f", {skipped_rows:,} bad rows left out" if skipped_rows else ""
    known = f", {plan.known:,} of them known already" if plan.known else ""
    rows = {
        "model": plan.terms.model,
        "documents": f"{documents:,}{skipped}",
        "chunks": f"{plan.chunks:,}{known}",
        "calls": f"{plan.calls:,}",
        "input tokens": f"{plan.input_tokens:,}",
        "output tokens": f"about {plan.output_tokens:,}, at most {plan.most_output_tokens:,}",
        "cost": _cost(plan),
        "time": _time(plan),
    }
    if budget is not None:
        rows["budget"] = verdict(plan, budget, spent)
    return "\n".join(f"{name:<15}{value}" for name, value in rows.items())


def described(plan: Plan, budget: int | None = None, spent: Spent = NOTHING) -> dict[str, Any]:
    """Everything a program could want; dollars are numbers, null where there is none."""
    return {
        "model": plan.terms.model,
        "chunks": plan.chunks,
        "known": plan.known,
        "calls": plan.calls,
        "input_tokens": plan.input_tokens,
        "output_tokens": plan.output_tokens,
        "most_output_tokens": plan.most_output_tokens,
        "dollars": None if plan.cost_micros is None else plan.cost_micros / 1e6,
        "most_dollars": None if plan.most_micros is None else plan.most_micros / 1e6,
        "budget_dollars": None if budget is None else budget / 1e6,
        "spent_dollars": None if plan.cost_micros is None else spent.taken_micros / 1e6,
        "seconds": round(plan.seconds, 1),
        "bound_by": plan.bound_by,
        "rpm": plan.terms.rates.rpm,
        "rpm_from": plan.terms.rates.rpm_from,
        "tpm": plan.terms.rates.tpm,
        "tpm_from": plan.terms.rates.tpm_from,
        "calls_in_flight": plan.terms.calls_in_flight,
        "latency_s": LATENCY_S,
    }


def _cost(plan: Plan) -> str:
    if plan.cost_micros is None or plan.most_micros is None:
        return "price unknown"
    return f"about {dollars(plan.cost_micros)}, at most {dollars(plan.most_micros)}"


def _time(plan: Plan) -> str:
    if not plan.calls:
        return "none: nothing is to be asked"
    limits, doubt = _limits(plan.terms), _doubt(plan.terms.rates)
    return f"about {spoken(plan.seconds)}, bound by {plan.bound_by} ({limits}){doubt}"


def _doubt(rates: Rates) -> str:
    is_guess = "guess" in {rates.rpm_from, rates.tpm_from}
    return ", if its limits are the least there are: nobody knows them yet" if is_guess else ""


def _limits(terms: Terms) -> str:
    rates = terms.rates
    limits = [f"{rates.rpm:,.0f} requests a minute"] if rates.rpm else []
    limits += [f"{rates.tpm:,.0f} tokens a minute"] if rates.tpm else []
    return ", ".join([*limits, f"{terms.calls_in_flight:,} calls in flight of {LATENCY_S:.0f} s"])
