from __future__ import annotations

from pathlib import Path

import pytest

from qaworker.monitor import incidents
from qaworker.monitor.incidents import Notice, Record
from qaworker.monitor.judging import CHECKS, Problem

LONG = Problem("warning", "101 messages wait")
LONGER = Problem("warning", "300 messages wait")


def look(record: Record, now: float, *channels: str, **findings: Problem | None) -> list[str]:
    """A look at which ``channels`` take what they are owed; the events they are told of."""
    record.update({name.replace("_", "-"): problem for name, problem in findings.items()}, now)
    told = []
    for channel in channels:
        notices = record.owed(channel)
        record.note_told(channel, notices)
        told += [f"{channel}: {notice.event}" for notice in notices]
    record.clear(("mail", "slack"), CHECKS)
    return told


def test_an_incident_is_told_once_and_once_when_it_is_over() -> None:
    record = Record()
    told = [
        look(record, now, "mail", "slack", queue_length=problem)
        for now, problem in enumerate([None, LONG, LONGER, None, None])
    ]
    assert told == [
        [],
        ["mail: opened", "slack: opened"],
        [],
        ["mail: recovered", "slack: recovered"],
        [],
    ]
    assert record == Record()


def test_a_recovery_says_how_long_it_lasted_and_how_bad_it_was_at_last() -> None:
    record = Record()
    look(record, 100.0, "mail", queue_length=LONG)
    look(record, 160.0, "mail", queue_length=LONGER)
    record.update({"queue-length": None}, 700.0)
    assert record.owed("mail") == [
        Notice("queue-length", "recovered", "warning", LONGER.text, 100.0, 700.0)
    ]


def test_what_a_channel_did_not_take_is_told_at_the_next_look() -> None:
    record = Record()
    assert look(record, 1.0, "mail", queue_length=LONG) == ["mail: opened"]
    assert look(record, 2.0, "mail", "slack", queue_length=LONG) == ["slack: opened"]
    assert look(record, 3.0, "slack", queue_length=None) == ["slack: recovered"]
    assert look(record, 4.0, "mail", queue_length=None) == ["mail: recovered"]
    assert record == Record()


def test_what_came_back_before_its_end_was_told_never_ended() -> None:
    record = Record()
    look(record, 1.0, "mail", "slack", queue_length=LONG)
    look(record, 2.0, queue_length=None)
    assert look(record, 3.0, "mail", "slack", queue_length=LONG) == []
    assert record.incidents["queue-length"].since == 1.0


def test_what_could_not_be_looked_at_goes_on() -> None:
    """Without Redis nobody knows how long the queue is."""
    record = Record()
    look(record, 1.0, "mail", "slack", queue_length=LONG)
    gone = Problem("critical", "Redis is away")
    assert look(record, 2.0, "mail", redis=gone) == ["mail: opened"]
    assert look(record, 3.0, "mail", redis=None, queue_length=LONG) == ["mail: recovered"]
    assert record.incidents["queue-length"].since == 1.0


def test_what_may_pass_is_told_at_the_second_look() -> None:
    record = Record()
    few = Problem("warning", "1 of 2 workers live on here")
    assert look(record, 1.0, "mail", expected=few) == []
    assert look(record, 2.0, "mail", expected=None) == []
    assert look(record, 3.0, "mail", expected=few) == []
    assert look(record, 4.0, "mail", expected=few) == ["mail: opened"]
    assert look(record, 5.0, "mail", expected=None) == ["mail: recovered"]


def test_what_is_no_longer_looked_at_is_forgotten() -> None:
    record = Record()
    look(record, 1.0, "mail", queue_length=LONG)
    record.clear(["mail"], ["redis"])
    assert record == Record()


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record(starts=[1.5])
    look(record, 1.0, "mail", queue_length=LONG)
    incidents.write(tmp_path / "record.json", record)
    assert incidents.read(tmp_path / "record.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"incidents": 3}'])
def test_a_damaged_record_is_an_empty_one(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(damage)
    assert incidents.read(path) == Record()
    incidents.write(path, Record(starts=[1.0]))
    assert incidents.read(path).starts == [1.0]


def test_there_is_no_record_at_first(tmp_path: Path) -> None:
    assert incidents.read(tmp_path / "record.json") == Record()


def test_so_is_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "record.json").mkdir()
    assert incidents.read(tmp_path / "record.json") == Record()
