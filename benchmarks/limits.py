"""Prints what becomes of limits, budgets and outages, case by case, beside what is wanted.

Two worker processes each time, with a Redis and a strict simulator of their own. Where a limit is to be
kept, two other ways to do it follow at a simulator of the same kind (see `rivals.py`).

    python -m benchmarks.limits                     all cases
    python -m benchmarks.limits rpm redis           those two
    python -m benchmarks.limits --scale 0.05 rpm    a twentieth of it: for breakage, not for speed

Exit codes: 0; 1 something wanted was missed (of speeds, at full size alone).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from benchmarks import fates, harness, outages, rates, spending
from benchmarks.report import Figure, table

Case = tuple[str, Callable[[float], list[Figure]]]
CASES: Final[Mapping[str, Case]] = {
    **{name: (rate.title, partial(rates.measure, rate)) for name, rate in rates.RATES.items()},
    "redis": ("Redis stopped for 20 s", outages.redis_away),
    "known": ("10,000 chunks, all of them known", spending.known),
    "budget": ("a budget of a third of the plan", spending.budget),
    "faults": ("2,000 chunks, where 26 % of calls fail", fates.faults),
    "503": ("3 minutes of nothing but 503", outages.provider_down),
    "quota": ("the quota ends at half", outages.no_quota),
}


def main() -> None:
    """Print the tables."""
    parser = harness.arguments(__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], help="all by default")
    options = parser.parse_args()
    harness.print_machine()
    is_well = True
    for name in options.cases or CASES:
        title, measure = CASES[name]
        begun = time.monotonic()
        figures = measure(options.scale)
        shown, is_met = table(title, figures, is_full_size=options.scale >= 1)
        is_well &= is_met
        print(f"\n{name}, {time.monotonic() - begun:.0f} s\n\n{shown}", flush=True)
    if not is_well:
        sys.exit("something wanted was missed")


if __name__ == "__main__":
    main()
