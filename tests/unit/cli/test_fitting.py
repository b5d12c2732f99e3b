from __future__ import annotations

import pytest

from qaworker.cli.fitting import NOTHING, Spent, spent_of, verdict
from qaworker.client.planning import Plan, Terms
from qaworker.limits.rates import Rates
from qaworker.llm.prices import dollars, price_of
from qaworker.models import GenerationConfig, Usage
from qaworker.store.looking import Seen

PRICE = price_of("gpt-5-mini")
SEEN = Seen("run", frozenset(), Usage(input=4_000, output=1_000))
SEEN_MICROS = 3_000


def plan(*, cost: int = 2_000_000, most: int = 4_000_000, call: int = 4_000) -> Plan:
    return Plan(
        chunks=1_300,
        known=66,
        calls=1_234,
        input_tokens=600_000,
        output_tokens=400_000,
        most_output_tokens=900_000,
        cost_micros=cost,
        most_micros=most,
        most_call_micros=call,
        seconds=300.0,
        bound_by="tokens",
        terms=Terms(
            model="gpt-5-mini",
            config=GenerationConfig(),
            price=PRICE,
            rates=Rates(),
            calls_in_flight=512,
        ),
    )


FITS = "all of it fits"
MAY_FIT = "it fits if answers are as long as is expected"
TOO_LITTLE = "too little; the run will be held, and go on with a larger one"
REFUSED = "refused, as it is less than that"


@pytest.mark.parametrize(
    ("free", "judged"),
    [
        (4_000_000, FITS),
        (3_999_999, MAY_FIT),
        (2_004_000, MAY_FIT),
        # The last call must find what it can cost at most, not what it is expected to.
        (2_003_999, TOO_LITTLE),
        (0, TOO_LITTLE),
    ],
)
def test_the_rest_of_a_run_is_paid_for_with_what_it_has_not_spent(free: int, judged: str) -> None:
    assert verdict(plan(), free, NOTHING) == f"{dollars(free)}: {judged}"
    spent = Spent(micros=700_000, reserved_micros=50_000)
    shown = verdict(plan(), free + 750_000, spent)
    assert shown.endswith(f" ($0.7000 spent already, and $0.0500 reserved): {judged}")


def test_a_budget_that_the_run_would_be_refused_is_said_to_be() -> None:
    spent = Spent(micros=19_500)
    assert verdict(plan(), 10_000, spent) == f"$0.0100 ($0.0195 spent already): {REFUSED}"
    done = plan(cost=0, most=0, call=0)
    assert verdict(done, 19_500, spent) == f"$0.0195 ($0.0195 spent already): {FITS}"


def test_one_call_fits_only_in_what_it_reserves() -> None:
    one = plan(cost=400, most=800, call=800)
    assert verdict(one, 800, NOTHING).endswith(FITS)
    assert verdict(one, 799, NOTHING).endswith(TOO_LITTLE)


def test_without_redis_the_ledger_is_believed_and_the_doubt_told() -> None:
    spent = spent_of(SEEN, None, PRICE)
    assert spent == Spent(micros=SEEN_MICROS, is_doubtful=True)
    assert verdict(plan(), 5_000_000, spent) == (
        "$5.00 ($0.0030 spent already by its ledger; Redis, which may know of more, is away):"
        " all of it fits"
    )


def test_what_has_yet_to_begin_has_spent_nothing() -> None:
    assert spent_of(None, None, PRICE) == NOTHING
    assert spent_of(SEEN, None, None) == NOTHING
