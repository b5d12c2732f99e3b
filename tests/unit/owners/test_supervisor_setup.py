"""The programs that supervisord is told to run."""

from __future__ import annotations

from configparser import RawConfigParser

from qaworker.owners import supervisor_setup


def test_each_worker_has_a_program_made_of_the_shipped_one() -> None:
    made = RawConfigParser()
    made.read_string(supervisor_setup.programs(2, "debug", 210.5))
    assert made.sections() == ["program:qa-celery", "program:qa_worker-1", "program:qa_worker-2"]
    assert made["program:qa-celery"]["numprocs"] == "0"
    second = made["program:qa_worker-2"]
    assert (second["numprocs"], second["numprocs_start"]) == ("1", "2")
    assert second["command"] == "qaworker worker -n %(process_num)d -l debug"
    assert second["stopwaitsecs"] == "211"
    # TERM for the main process alone.
    assert second["stopasgroup"] == "false"
