"""Figures beside what is wanted of them, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table; of nothing but its bounds when it has some."""

    name: str
    value: float
    others: tuple[float | None, ...] = ()
    """The same of what is measured beside; None where it has no such thing."""
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

    def row(self, *, is_judged: bool) -> str:
        """Its line of the table."""
        wanted = [
            f"{word} {bound:{self.form}}" if bound else "0"
            for word, bound in (("at least", self.least), ("at most", self.most))
            if bound is not None
        ]
        missed = "**, missed**" if is_judged and self.is_missed else ""
        others = ("–" if other is None else f"{other:{self.form}}" for other in self.others)
        value = f"{self.value:{self.form}}"
        return "| " + " | ".join((self.name, value, " ".join(wanted) + missed, *others)) + " |"


def table(
    title: str, figures: Sequence[Figure], others: Sequence[str], *, is_full_size: bool
) -> tuple[str, bool]:
    """A table of ``figures`` under a title, and whether every one that can be judged is in bounds."""
    judged = [is_full_size or not figure.is_of_full_size for figure in figures]
    heads = (title, "qaworker" if others else "measured", "wanted", *others)
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [
        figure.row(is_judged=is_judged) for figure, is_judged in zip(figures, judged, strict=True)
    ]
    missed = any(f.is_missed and is_judged for f, is_judged in zip(figures, judged, strict=True))
    return "\n".join(lines), not missed
