"""One look: see, judge, tell, and start workers where that is wanted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from gettext import gettext as _
from typing import Final

from qaworker import logs
from qaworker.errors import OwnerError
from qaworker.monitor import healing, incidents
from qaworker.monitor.channels import Channel, Message, NotSent
from qaworker.monitor.incidents import Record
from qaworker.monitor.judging import Findings, Limits, judge
from qaworker.monitor.ownership import inherit_owner
from qaworker.owners import choosing
from qaworker.owners.lock import locked
from qaworker.settings import Settings
from qaworker.status import gathering
from qaworker.status.picture import Status

log = logs.get(__name__)

OK, WARNING, CRITICAL, UNKNOWN = range(4)
"""Exit codes, as Nagios has them."""
_CODES: Final = {"warning": WARNING, "critical": CRITICAL}
_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Report:
    """What a look came to."""

    code: int
    text: str
    troubles: Sequence[str] = ()
    """What the monitor could not do itself."""

    @property
    def line(self) -> str:
        """As Nagios shows it."""
        return f"QAWORKER {_WORDS[self.code]}: {self.text}"


def look(
    values: Settings,
    limits: Limits,
    names: frozenset[str],
    channels: Sequence[Channel],
    *,
    heal: bool,
) -> Report:
    """Look once.

    Args:
        values: the settings.
        limits: beyond which something is a problem.
        names: of the checks to make.
        channels: who is told.
        heal: start workers when all of this host are gone.

    Raises:
        Busy: another look is under way.
        NotAllowed, OwnerError: the runtime directory cannot be written. Whom it concerns was told
            before that, and will be told again.
    """
    directory = values.runtime_dir / "monitor"
    with locked(directory, "monitor"):
        seen = gathering.gather(values)
        findings = judge(seen, limits, names)
        now = time.time()
        record = incidents.read(directory / "record.json")
        is_to_start = heal and _may_start(seen, record, findings, now)
        record.update(findings, now)
        troubles = _tell(record, channels, seen.host)
        record.clear((channel.name for channel in channels), names | {healing.NAME})
        # Before the start: one that takes this process with it counts too.
        incidents.write(directory / "record.json", record)
        for path in (directory, *directory.iterdir()):
            inherit_owner(path)
        if is_to_start:
            troubles += _start(values, seen.expected)
    report = _report(seen, findings, troubles, is_starting=is_to_start)
    log.info("looked", code=_WORDS[report.code], text=report.text)
    return report


def _may_start(seen: Status, record: Record, findings: Findings, now: float) -> bool:
    """Whether workers are to be started now; the finding says why not, where that is the limit."""
    record.starts = healing.recent(record.starts, now)
    if not healing.is_due(seen):
        if any(worker.is_living for worker in seen.workers):
            findings[healing.NAME] = None
        return False
    findings[healing.NAME] = problem = healing.exhausted(record.starts)
    if problem is None:
        record.starts.append(now)
    return problem is None


def _tell(record: Record, channels: Sequence[Channel], host: str) -> list[str]:
    """Tell each channel what it does not know; what it did not take it is told at the next look."""
    troubles = []
    for channel in channels:
        notices = record.owed(channel.name)
        if not notices:
            continue
        try:
            channel.send(Message(host, notices))
        except NotSent as error:
            log.error("notice_not_sent", channel=channel.name, error=str(error))
            troubles.append(_("nobody was told: {error}").format(error=error))
        else:
            log.info("notice_sent", channel=channel.name, notices=len(notices))
            record.note_told(channel.name, notices)
    return troubles


def _start(values: Settings, workers: int) -> list[str]:
    try:
        with locked(values.runtime_dir, "monitor --heal"):
            choosing.choose(values, None, ()).start(workers, None)
    except OwnerError as error:
        log.error("workers_not_started", error=str(error))
        return [_("the workers were not started: {error}").format(error=error)]
    log.warning("workers_started", workers=workers)
    return []


def _report(
    seen: Status, findings: Findings, troubles: Sequence[str], *, is_starting: bool
) -> Report:
    problems = [problem for problem in findings.values() if problem is not None]
    if not problems and seen.redis_error:
        return Report(UNKNOWN, seen.redis_error, troubles)
    if not problems:
        text = (
            _("workers consuming: {consuming} of {expected}, messages waiting: {length}")
            if seen.expected
            else _("workers consuming: {consuming}, messages waiting: {length}")
        ).format(consuming=seen.consuming, expected=seen.expected, length=seen.length)
        return Report(OK, text, troubles)
    texts = [problem.text for problem in problems]
    if is_starting:
        texts.append(_("starting workers: {workers}").format(workers=seen.expected))
    return Report(max(_CODES[p.severity] for p in problems), "; ".join(texts), troubles)
