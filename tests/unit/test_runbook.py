"""What README.md and RUNBOOK.md tell people to type parses, and what they name is there."""

from __future__ import annotations

import math
import re
from typing import Any

import click
import pytest

from qaworker.cli import monitor, service
from qaworker.cli.main import root
from qaworker.settings import Settings
from tests.support.documents import DOCUMENTS, PROGRAMS, Documented, anchors, commands, links, read
from tests.support.processes import ROOT

# Set by the owners' own files, or printed for them.
OWNERS = {"QAWORKER_INSTANCE", "QAWORKER_STOP_TIMEOUT_S", "QAWORKER_WORKERS"}
TAKEN_BY: dict[str, click.Command] = dict(
    zip(PROGRAMS, (root, service.command, monitor.command), strict=True)
)


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[click.Context]:
    """What commands were given, instead of what they would have done."""
    contexts: list[click.Context] = []

    def invoke(self: click.Command, ctx: click.Context) -> None:  # noqa: ARG001, click calls it
        contexts.append(ctx)

    monkeypatch.setattr(click.Command, "invoke", invoke)
    return contexts


def parse(words: tuple[str, ...]) -> None:
    program, *arguments = words
    TAKEN_BY[program].main(arguments, prog_name=program, standalone_mode=False)


@pytest.mark.parametrize(
    "command",
    [command for document in DOCUMENTS for command in commands(document)],
    ids=lambda command: f"{command.place}-{command.text}",
)
def test_every_command_parses(command: Documented, parsed: list[click.Context]) -> None:
    try:
        parse(command.words)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        assert command.is_mention
        return
    context = parsed[-1]
    if context.command is service.command and (action := context.params["action"]):
        assert action in service.TAKES
        service._refuse_what_says_nothing(context, action)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for target in links(document):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), target
        assert not anchor or anchor in anchors(path or document), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_setting_exists(document: str) -> None:
    fields: dict[str, Any] = Settings.model_fields
    settings = {f"QAWORKER_{name.upper()}" for name in fields} | OWNERS
    assert set(re.findall(r"QAWORKER_[A-Z_]+", read(document))) <= settings


def test_the_capacity_table_is_computed() -> None:
    head = "| workers | slots each | latency, s | requests a minute | tokens a minute |"
    rows = read("RUNBOOK.md").partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) > 5
    for row in rows:
        *given, calls, bound_by = (cell.strip() for cell in row.strip("|").split("|"))
        workers, slots, latency_s, rpm, tpm, tokens = (
            math.inf if cell == "none" else float(cell.replace(",", "")) for cell in given
        )
        bounds = {
            "requests": rpm,
            "tokens": tpm / tokens,
            "slots": workers * slots * 60 / latency_s,
        }
        assert bound_by == min(bounds, key=lambda name: bounds[name]), row
        assert float(calls.replace(",", "")) == int(bounds[bound_by]), row


def test_every_metric_is_one_that_an_alert_uses() -> None:
    named = set(re.findall(r"\bqaworker_[a-z_]+", read("RUNBOOK.md")))
    assert named
    assert named <= set(
        re.findall(r"\bqaworker_[a-z_]+", read("deploy/prometheus/qaworker.rules.yml"))
    )
