"""``qaworker check``: one line a check, OK or FAILED and why."""

from __future__ import annotations

import json
import uuid

import click

from qaworker import logs, settings
from qaworker.checks import CheckFailed, Finding, finding, run_checks
from qaworker.client.collecting import collect_results, submit_parallel_qa_generation
from qaworker.errors import ExitCode

CALL_TIMEOUT_S = 120.0


@click.command("check")
@click.option("--call", is_flag=True, help="Also send one test chunk through queue and worker.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(*, call: bool, as_json: bool) -> int:
    """Check settings, Redis, workers and their owner, the API and the disk; exit 1 when one fails."""
    values = settings.load()
    logs.configure("error", values.log_format)
    findings: list[Finding] = []
    for found in run_checks(values):
        findings.append(found)
        _show(found, as_json=as_json)
    if call:
        findings.append(finding("call", lambda: _call(values.model)))
        _show(findings[-1], as_json=as_json)
    if as_json:
        listed = [{"check": f.name, "ok": f.is_ok, "text": f.text} for f in findings]
        click.echo(json.dumps(listed, ensure_ascii=False, indent=2))
    return ExitCode.OK if all(found.is_ok for found in findings) else ExitCode.FAILED


def _show(found: Finding, *, as_json: bool) -> None:
    if not as_json:
        click.echo(f"{found.name}: {'OK' if found.is_ok else 'FAILED'}: {found.text}")


def _call(model: str) -> str:
    """Send one chunk before all that waits, new each time: no outcome of an earlier check answers it."""
    chunk = {
        "chunk_id": "check",
        "text": f"Check number {uuid.uuid4().hex} passed through the queue. A worker answered it.",
    }
    tasks = submit_parallel_qa_generation([chunk], {"pairs_per_chunk": 1}, model, priority="high")
    collected = collect_results(tasks, timeout=CALL_TIMEOUT_S)
    if collected.pending:
        raise CheckFailed(f"no outcome within {CALL_TIMEOUT_S:g} s: read the workers' log")
    if collected.failed:
        raise CheckFailed(collected.failed["check"])
    return f"{len(collected)} pair came back"
