"""Looks into a run that another process may be at work on: nothing is locked, made or changed."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qaworker.models import Usage
from qaworker.store import tally
from qaworker.store.database import Database, existing


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run had recorded when it was looked into."""

    run_id: str
    settled: frozenset[str]
    """Digests that have an outcome: about 100 bytes each."""
    usage: Usage
    """Paid for by this run."""


def look(directory: Path) -> Seen:
    """See what a run has recorded.

    Raises:
        ConfigError: there is no run of this version in the directory, or it is damaged.
        RunDirectoryError: it cannot be read.
    """
    with closing(Database.look_into(existing(directory))) as database:
        ((run_id,),) = database.query("SELECT value FROM run WHERE name = 'run_id'")
        settled = database.stream(
            "SELECT digest FROM digest WHERE state NOT IN ('waiting', 'sent')"
        )
        digests = frozenset(digest for (digest,) in settled)
        counts = tally.counts({}, database.query("SELECT * FROM tally"))
        return Seen(run_id, digests, counts.usage)
