"""Figures beside what is wanted of them, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table; of nothing but its bounds when it has some."""

    name: str
    value: float
    others: Mapping[str, float | None] = field(default_factory=dict)
    """The same of what is measured beside, by its name; None where it has no such thing."""
    least: float | None = None
    most: float | None = None
    form: str = ",.0f"
    is_of_full_size: bool = False
    """Whether its bounds hold for nothing smaller than the whole benchmark on a quiet machine."""

    @property
    def is_missed(self) -> bool:
        """Whether it is outside its bounds."""
        return (self.least is not None and self.value < self.least) or (
            self.most is not None and self.value > self.most
        )

    @property
    def wanted(self) -> str:
        """Its bounds in words."""
        if self.most is not None and self.most in {0, self.least}:
            return f"{self.most:g}"
        if self.most is not None:
            return f"at most {self.most:{self.form}}"
        return "" if self.least is None else f"at least {self.least:{self.form}}"

    def row(self, *, is_judged: bool) -> str:
        """Its line of the table."""
        missed = "**, missed**" if is_judged and self.is_missed else ""
        others = (
            "–" if other is None else f"{other:{self.form}}" for other in self.others.values()
        )
        value = f"{self.value:{self.form}}"
        return "| " + " | ".join((self.name, value, self.wanted + missed, *others)) + " |"


def table(title: str, figures: Sequence[Figure], *, is_full_size: bool) -> tuple[str, bool]:
    """A table of ``figures`` under a title, and whether all that can be judged are in bounds."""
    others = figures[0].others
    heads = (title, "qaworker" if others else "measured", "wanted", *others)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    is_met = True
    for figure in figures:
        is_judged = is_full_size or not figure.is_of_full_size
        lines.append(figure.row(is_judged=is_judged))
        is_met &= not (is_judged and figure.is_missed)
    return "\n".join(lines), is_met
