"""The Grafana dashboard that is shipped: its panels, and its queries as Grafana would send them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.support.processes import ROOT

DASHBOARD: Final = ROOT / "deploy" / "grafana" / "qaworker.json"

_VARIABLE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, with its variables not yet replaced."""

    panel: str
    legend: str
    expression: str

    @property
    def variables(self) -> set[str]:
        """The names of its variables."""
        return {braced or bare for braced, bare in _VARIABLE.findall(self.expression)}

    def sent(self, **values: str) -> str:
        """What Prometheus gets when the variables have these values.

        Raises:
            KeyError: there is none for one of them.
        """
        return _VARIABLE.sub(lambda found: values[found[1] or found[2]], self.expression)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def panels() -> list[dict[str, Any]]:
    """Its panels in their order, without the headings of rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """Every query of every panel."""
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], target.get("legendFormat", ""), target["expr"])
