"""Prometheus and Alertmanager of the tests' own, on loopback, with what deploy/prometheus ships."""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import pytest

from tests.support.processes import ROOT, Process, child_environment
from tests.support.waiting import wait_until

SHIPPED: Final = ROOT / "deploy" / "prometheus"
RULES: Final = SHIPPED / "qaworker.rules.yml"
SCRAPE_S: Final = 1
START_S: Final = 30.0
ANSWER_S: Final = 10.0

_SPAN: Final = re.compile(r"(?:(?<=\[)|(?<=for: )|(?<=offset ))(\d+)([mhd])(?=\]|\s)")
_UNITS_S: Final = {"m": 60, "h": 3600, "d": 86400}
_LISTENS: Final = re.compile(r'msg="Listening on" address=(127\.0\.0\.1:\d+)')


def program(name: str) -> str:
    """The path of a program of Prometheus; the test is skipped where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def shortened(rules: str, **thresholds: float) -> str:
    """Rules in which a minute is a second, and an hour a minute; otherwise as they are.

    Args:
        rules: the text of a file of rules.
        thresholds: by the name of its rule without the part ``qaworker_site:``, other values for
            the thresholds that the file's first group sets.
    """
    text = _SPAN.sub(lambda span: f"{int(span[1]) * _UNITS_S[span[2]] // 60}s", rules)
    for name, value in thresholds.items():
        rule = rf"(record: qaworker_site:{name}\n\s+expr: vector)\([\d.e]+\)"
        text, found = re.subn(rule, rf"\g<1>({value:g})", text)
        assert found == 1, f"{name}: {found} thresholds"
    return text


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer and its value."""

    labels: Mapping[str, str]
    value: float


class _Server(Process):
    """Listens on a free port, whose address its log tells; ready when constructed."""

    def __init__(self, name: str, directory: Path, *options: str) -> None:
        super().__init__(
            [program(name), "--web.listen-address=127.0.0.1:0", *options],
            log=directory / "log",
            cwd=directory,
            env=child_environment(directory),
        )
        try:
            self.url = f"http://{wait_until(self._address, START_S, f'{name} to listen')}"
            wait_until(self._is_ready, START_S, f"{name} to be ready")
        except BaseException as error:
            error.add_note(self.output)
            self.end()
            raise

    def get(self, path: str, **parameters: str) -> Any:
        """The JSON at a path of its API."""
        url = f"{self.url}{path}?{urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            return json.load(answer)

    def _address(self) -> str:
        self.check_alive()
        found = _LISTENS.search(self.output)
        return found[1] if found else ""

    def _is_ready(self) -> bool:
        self.check_alive()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=ANSWER_S):
                return True
        except urllib.error.HTTPError:
            return False


class Alertmanager(_Server):
    """Tells nobody, as the shipped receivers are empty: its API lists what fires.

    Args:
        directory: an empty one for its files.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__(
            "prometheus-alertmanager",
            directory,
            f"--config.file={SHIPPED / 'alertmanager.yml'}",
            f"--storage.path={directory / 'data'}",
            # One alone, which listens for no others.
            "--cluster.listen-address=",
        )

    def alerts(self) -> list[dict[str, Any]]:
        """What fires now: its ``labels``, ``annotations``, ``startsAt`` and more."""
        found: list[dict[str, Any]] = self.get("/api/v2/alerts")
        return found

    def firing(self, **labels: str) -> set[str]:
        """The names of the alerts with these labels that fire now."""
        return _names(self.alerts(), labels)

    def untold(self) -> set[str]:
        """The names of those that fire and of which nobody is told, as another explains them."""
        return _names((one for one in self.alerts() if one["status"]["inhibitedBy"]), {})


def _names(alerts: Iterable[dict[str, Any]], labels: Mapping[str, str]) -> set[str]:
    return {
        alert["labels"]["alertname"]
        for alert in alerts
        if labels.items() <= alert["labels"].items()
    }


class Prometheus(_Server):
    """Scrapes and evaluates every second.

    Args:
        directory: an empty one for its files.
        targets: job -> address, ``{"qaworker": "127.0.0.1:9808"}``.
        rules: the text of a file of rules.
        alertmanager: who is told of what fires.
    """

    def __init__(
        self,
        directory: Path,
        targets: Mapping[str, str],
        *,
        rules: str = "",
        alertmanager: Alertmanager | None = None,
    ) -> None:
        (directory / "rules.yml").write_text(rules, "utf-8")
        managers = [alertmanager.url.removeprefix("http://")] if alertmanager else []
        config = {
            "global": {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": ["rules.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": managers}]}]},
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [address]}]}
                for job, address in targets.items()
            ],
        }
        # JSON is YAML.
        path = directory / "prometheus.yml"
        path.write_text(json.dumps(config), "utf-8")
        super().__init__(
            "prometheus",
            directory,
            f"--config.file={path}",
            f"--storage.tsdb.path={directory / 'data'}",
        )

    def query(self, expression: str) -> list[Sample]:
        """The answer to an instant query for an instant vector or a scalar, as of now.

        Raises:
            AssertionError: Prometheus does not understand it; its words.
        """
        try:
            data = self.get("/api/v1/query", query=expression)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        if data["resultType"] == "scalar":
            return [Sample({}, float(data["result"][1]))]
        return [Sample(each["metric"], float(each["value"][1])) for each in data["result"]]

    def wait_for(self, expression: str, timeout_s: float) -> Sequence[Sample]:
        """The answer to a query as soon as there is one; a comparison waits for a value."""
        return wait_until(lambda: self.query(expression), timeout_s, expression)

    def alerts(self) -> list[dict[str, Any]]:
        """Its alerts, pending and firing, with their ``state`` and ``value``."""
        found: list[dict[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return found

    def rule_errors(self) -> list[str]:
        """The last errors of rules that cannot be evaluated."""
        groups = self.get("/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return [rule["lastError"] for rule in rules if rule.get("lastError")]
