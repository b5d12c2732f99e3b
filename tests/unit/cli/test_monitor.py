"""What Nagios and its likes see of a monitor that fails itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.processes import child_environment

SURPRISED = """
import sys

from qaworker.cli import main, monitor

def look(*_, **__):
    raise RuntimeError("two\\nlines")

monitor.look = look
sys.exit(main.main())
"""


def test_a_surprise_is_unknown_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SURPRISED, "monitor"],
        env=child_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == "QAWORKER UNKNOWN: RuntimeError: two lines\n"
    log = (tmp_path / "var" / "log" / "celery_monitor.log").read_text(encoding="utf-8")
    assert "look_failed" in log
    assert "Traceback" in log
