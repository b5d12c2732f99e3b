"""One look: see, judge, start workers where that is wanted, and tell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from gettext import gettext as _
from typing import Final

from qaworker import logs
from qaworker.errors import Busy, OwnerError, QAWorkerError, StoreUnavailable
from qaworker.monitor import healing, incidents
from qaworker.monitor.channels import Channel
from qaworker.monitor.incidents import Record
from qaworker.monitor.judging import Findings, Limits, judge
from qaworker.monitor.telling import tell
from qaworker.owners import choosing, expecting
from qaworker.owners.lock import locked
from qaworker.owners.readiness import living_here
from qaworker.owners.redis_at_hand import answering
from qaworker.settings import Settings
from qaworker.status import gathering
from qaworker.status.picture import Status

log = logs.get(__name__)

OK, WARNING, CRITICAL, UNKNOWN = range(4)
"""Exit codes, as Nagios has them."""
_CODES: Final = {"warning": WARNING, "critical": CRITICAL}
_WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


LOCK_NAME: Final = "monitor.lock"
RECORD_NAME: Final = "monitor.json"


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
    path = values.runtime_dir / RECORD_NAME
    with locked(values.runtime_dir, "monitor", LOCK_NAME):
        # Redis may be away, or a start be under way: the next look will do.
        with suppress(StoreUnavailable, Busy):
            expecting.tell_stop(values)
        seen = gathering.gather(values)
        findings = judge(seen, limits, names)
        now = time.time()
        record = incidents.read(path)
        is_to_heal = heal and _may_heal(seen, record, findings, now)
        record.update(findings, now)
        started, troubles = _heal(values, record) if is_to_heal else (0, [])

        def remember() -> None:
            # On a full disk too people are told: the last writing complains of it.
            with suppress(OwnerError):
                incidents.write(path, record)

        remember()
        troubles += tell(record, channels, seen.host, remember)
        record.clear((channel.name for channel in channels), names | {healing.NAME})
        incidents.write(path, record)
    report = _report(seen, findings, troubles, started=started)
    log.info("looked", code=_WORDS[report.code], text=report.text)
    return report


def _may_heal(seen: Status, record: Record, findings: Findings, now: float) -> bool:
    """Whether workers are to be started now; the finding says why not, where that is the limit."""
    record.starts = healing.recent(record.starts, now)
    if not healing.is_due(seen):
        if any(worker.is_living for worker in seen.workers):
            findings[healing.NAME] = None
        return False
    findings[healing.NAME] = problem = healing.exhausted(record.starts)
    return problem is None


def _heal(values: Settings, record: Record) -> tuple[int, list[str]]:
    """Start workers; how many, and why none."""
    try:
        with locked(values.runtime_dir, "monitor --heal"), answering(values) as redis:
            # Somebody may have started or stopped them before the lock was ours.
            seen = gathering.gather(values)
            if not healing.is_due(seen):
                return 0, []
            owner = choosing.choose(values, None, living_here(redis))
            # Before the start: one that takes this process with it counts too.
            record.starts.append(time.time())
            incidents.write(values.runtime_dir / RECORD_NAME, record)
            owner.start(seen.expected, None)
    except QAWorkerError as error:
        log.error("workers_not_started", error=str(error))
        return 0, [_("the workers were not started: {error}").format(error=error)]
    log.warning("workers_started", workers=seen.expected)
    return seen.expected, []


def _report(seen: Status, findings: Findings, troubles: Sequence[str], *, started: int) -> Report:
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
    if started:
        texts.append(_("starting workers: {workers}").format(workers=started))
    return Report(max(_CODES[p.severity] for p in problems), "; ".join(texts), troubles)
