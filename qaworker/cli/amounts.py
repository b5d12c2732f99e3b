"""The options that say what a run may cost, for commands that plan one or pay for it."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any, Final

import click

from qaworker.llm.prices import MICROS

# More than anybody has, and less than Redis counts exactly.
_MOST: Final = 1_000_000_000


class Dollars(click.ParamType[int]):
    """An amount of dollars, as whole micro-dollars."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it; fails with a usage error."""
        if isinstance(value, int):
            return value
        try:
            amount = Decimal(str(value).removeprefix("$"))
        except InvalidOperation:
            amount = Decimal("nan")
        micros = int(amount * MICROS) if amount.is_finite() and amount <= _MOST else 0
        if micros <= 0:
            self.fail(f"{value!r} is no amount of dollars above 0", param, ctx)
        return micros


budget_option = click.option(
    "--budget",
    type=Dollars(),
    help="Spend no more dollars than so many on this run; then it is held.",
)
yes_option = click.option(
    "-y", "--yes", is_flag=True, help="Do not ask, whatever the plan says it will cost."
)
