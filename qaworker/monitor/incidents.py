"""What has been wrong since when, and who was told: kept in a file from one look to the next."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from qaworker import logs
from qaworker.monitor.judging import Findings, Severity, sightings
from qaworker.owners.files import replace

log = logs.get(__name__)

Event = Literal["opened", "recovered"]


class Incident(BaseModel):
    """Something wrong, from the first look that saw it to the first that saw it no more."""

    severity: Severity
    text: str
    since: float
    """Seconds since the epoch, like ``until``."""
    until: float | None = None
    sightings: int = 1
    told: dict[str, Event] = {}
    """By channel, the last it heard of this."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What a channel is to be told of one incident."""

    check: str
    event: Event
    severity: Severity
    text: str
    since: float
    until: float | None


class Record(BaseModel):
    """Everything the monitor remembers."""

    incidents: dict[str, Incident] = {}
    """By check."""
    starts: list[float] = []
    """When it started workers, in seconds since the epoch."""

    def update(self, findings: Findings, now: float) -> None:
        """Open, continue and end incidents; a check that was not made leaves its incident as it is."""
        for check, problem in findings.items():
            incident = self.incidents.get(check)
            if problem is None:
                if incident is not None and incident.sightings < sightings(check):
                    del self.incidents[check]
                elif incident is not None and incident.until is None:
                    incident.until = now
                    log.info("incident_ended", check=check, lasted_s=round(now - incident.since))
                continue
            if incident is None or (incident.until is not None and not incident.told):
                incident = Incident(severity=problem.severity, text=problem.text, since=now)
                self.incidents[check] = incident
            else:
                # One that came back before its end was told never ended, for who was to be told.
                incident.until = None
                incident.sightings += 1
                incident.text, incident.severity = problem.text, problem.severity
            if incident.sightings == sightings(check):
                log.warning("incident_opened", check=check, text=problem.text)

    def owed(self, channel: str) -> list[Notice]:
        """What a channel has not been told yet."""
        notices = []
        for check, incident in self.incidents.items():
            event: Event = "opened" if incident.until is None else "recovered"
            if incident.told.get(channel) != event and incident.sightings >= sightings(check):
                notices.append(
                    Notice(
                        check,
                        event,
                        incident.severity,
                        incident.text,
                        incident.since,
                        incident.until,
                    )
                )
        return notices

    def note_told(self, channel: str, notices: Iterable[Notice]) -> None:
        """Remember that a channel took them."""
        for notice in notices:
            self.incidents[notice.check].told[channel] = notice.event

    def clear(self, channels: Iterable[str], checks: Iterable[str]) -> None:
        """Forget what has ended and was told by each channel, and what is no longer looked at."""
        channels, checks = set(channels), set(checks)
        self.incidents = {
            check: incident
            for check, incident in self.incidents.items()
            if check in checks
            and (
                incident.until is None
                or any(incident.told.get(channel) != "recovered" for channel in channels)
            )
        }


def read(path: Path) -> Record:
    """What the last look remembered; nothing when there was none, or its file cannot be read."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Record()
    except (OSError, ValidationError) as error:
        log.warning("record_unreadable", path=str(path), error=str(error))
        return Record()


def write(path: Path, record: Record) -> None:
    """Remember; raises OwnerError or NotAllowed."""
    replace(path, record.model_dump_json(indent=2))
