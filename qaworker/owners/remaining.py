"""Says whose a worker is that runs on after a stop, and what ends it."""

from __future__ import annotations

from gettext import gettext as _
from pathlib import Path

from qaworker.errors import NotAllowed
from qaworker.owners.processes import Process
from qaworker.store.heartbeats import Beat


def runs_on(beat: Beat, runtime_dir: Path) -> str:
    """A line about a worker of this host, by the mark that its process carries."""
    try:
        process = Process.of(beat.pid)
    except NotAllowed:
        text = _("{name} (process {pid}) runs on: it is another user's")
        return text.format(name=beat.name, pid=beat.pid)
    if process is not None and process.is_of(runtime_dir.resolve()):
        text = _("{name} (process {pid}) runs on: start_celery.sh stop --force ends it")
    elif process is not None and process.instance:
        text = _("{name} (process {pid}) runs on: it is of the installation in {path}")
        return text.format(name=beat.name, pid=beat.pid, path=process.instance)
    else:
        text = _("{name} (process {pid}) was started by hand: kill -TERM {pid}")
    return text.format(name=beat.name, pid=beat.pid)
