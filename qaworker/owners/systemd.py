"""systemd as the owner: ``systemctl`` on the umbrella qa-celery and its instances qa-celery@1..N.

How many there are is a drop-in of the umbrella. systemd cannot take a dependency away again in a
drop-in, so the unit itself names none, and the drop-in is replaced as a whole.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from gettext import gettext as _
from pathlib import Path
from typing import Final, Literal

from qaworker.errors import ConfigError, OwnerError
from qaworker.owners.ending import KILL_GRACE_S, QUIT_GRACE_S
from qaworker.owners.files import replace, writing
from qaworker.owners.owner import Owned, OwnerName
from qaworker.owners.systemctl import run, show, systemctl

UMBRELLA: Final = "qa-celery.service"
INSTANCES: Final = "qa-celery@*.service"
DROP_IN: Final = Path("/etc/systemd/system/qa-celery.service.d/workers.conf")
START_ENV: Final = Path("/run/qaworker.env")
"""What a start said, read by the units after the installation's settings; gone with the next boot."""

_POLL_S: Final = 0.1
_BOOTED: Final = Path("/run/systemd/system")
_STATES: Final[dict[str, Literal["running", "starting", "stopping", "stopped", "failed"]]] = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "inactive": "stopped",
    "failed": "failed",
}
# As systemctl prints durations: "5min 30s".
_UNITS_S: Final = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}

_LOAD_CREDENTIAL: Final = re.compile(r"^LoadCredential=(.*)$", re.MULTILINE)


def instance(number: int) -> str:
    """The unit of one worker process."""
    return f"qa-celery@{number}.service"


def drop_in(workers: int) -> str:
    """The content of the drop-in that makes so many instances belong to the umbrella."""
    units = " ".join(instance(number) for number in range(1, workers + 1))
    return f"# Written by start_celery.sh -w N; to be replaced as a whole.\n[Unit]\nWants={units}\n"


class Systemd:
    """The units that deploy/install.sh installed."""

    name: OwnerName = "systemd"

    def is_available(self) -> bool:
        """Whether this host runs systemd and has the units."""
        if not _BOOTED.is_dir():
            return False
        try:
            return show(UMBRELLA, "LoadState")[0]["LoadState"] == "loaded"
        except OwnerError:
            return False

    def owned(self) -> list[Owned]:
        """The instances that are loaded, by number."""
        found = []
        for unit in show(INSTANCES, "Id", "MainPID", "ActiveState", "ExecMainStatus"):
            number = unit.get("Id", "").partition("@")[2].removesuffix(".service")
            if number.isdecimal():
                state = _STATES.get(unit["ActiveState"], "starting")
                code = int(unit["ExecMainStatus"])
                found.append(Owned(int(number), int(unit["MainPID"]), state, code))
        return sorted(found, key=lambda owned: owned.number)

    def expected(self) -> int:
        """How many belong to the umbrella; 0 when that is stopped.

        After a boot without Redis the umbrella has failed, and systemd still starts its instances.
        """
        umbrella = show(UMBRELLA, "ActiveState", "Wants")[0]
        return 0 if umbrella["ActiveState"] == "inactive" else len(_wanted(umbrella))

    def configured(self) -> int:
        """How many ``systemctl start qa-celery`` starts."""
        return len(_wanted(show(UMBRELLA, "Wants")[0]))

    def start(self, workers: int, log_level: str | None) -> None:
        """Make so many instances belong to the umbrella, start the new and stop the surplus.

        Raises:
            ConfigError: the file with the API key is missing, without which none would start.
            OwnerError, NotAllowed: systemd does not do it.
        """
        _require_key_file()
        umbrella = show(UMBRELLA, "ActiveState", "Wants")[0]
        _say_level(log_level)
        if _wanted(umbrella) != set(range(1, workers + 1)):
            replace(DROP_IN, drop_in(workers))
            systemctl("daemon-reload")
        # Else a failure of before would be taken for one of this start.
        self._forget_failures()
        owned = self.owned()
        live = {one.number for one in owned if one.state in {"running", "starting"}}
        surplus = {number for number in live if number > workers}
        if surplus:
            systemctl("stop", "--no-block", *map(instance, surplus))
        missing = [instance(number) for number in range(1, workers + 1) if number not in live]
        # Starting it while it reloads would let it reload again.
        umbrellas = [] if umbrella["ActiveState"] in {"active", "reloading"} else [UMBRELLA]
        if to_start := umbrellas + missing:
            systemctl("start", "--no-block", *to_start)
        # For no longer than their TimeoutStopSec=.
        while any(one.pid for one in self.owned() if one.number in surplus):
            time.sleep(_POLL_S)

    def settle(self, timeout_s: float) -> None:
        """Return when the umbrella has started or failed: until then it ignores a reload."""
        give_up_at = time.monotonic() + timeout_s
        while show(UMBRELLA, "ActiveState")[0]["ActiveState"] == "activating":
            if time.monotonic() >= give_up_at:
                text = _("{unit} is still starting after {timeout_s:g} s: see its journal")
                raise OwnerError(text.format(unit=UMBRELLA, timeout_s=timeout_s))
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float) -> None:
        """Stop the umbrella and all instances, by force after ``timeout_s`` or the units' own limit."""
        systemctl("stop", "--no-block", UMBRELLA, INSTANCES)
        steps = (("", timeout_s), ("QUIT", QUIT_GRACE_S), ("KILL", KILL_GRACE_S))
        for number, patience_s in steps:
            if number:
                self._signal(number)
            give_up_at = time.monotonic() + patience_s
            while self._is_ending():
                if time.monotonic() >= give_up_at:
                    break
                time.sleep(_POLL_S)
            else:
                # One that was ended by force has failed, for systemd.
                self._forget_failures()
                return
        raise OwnerError(
            _("systemd did not end all workers: see `systemctl status '{units}'`").format(
                units=INSTANCES
            )
        )

    def restart(self, number: int, timeout_s: float) -> None:
        """Let systemd replace one; returns when the new process exists, or has failed."""
        before = self._pid(number)
        systemctl("restart", "--no-block", instance(number))
        give_up_at = time.monotonic() + timeout_s
        while self._pid(number) in {0, before} and self._state(number) != "failed":
            if time.monotonic() >= give_up_at:
                raise OwnerError(
                    _("{unit} was not replaced within {timeout_s:g} s").format(
                        unit=instance(number), timeout_s=timeout_s
                    )
                )
            time.sleep(_POLL_S)

    def stop_timeout_s(self) -> float | None:
        """TimeoutStopSec= of the units."""
        text = show(instance(1), "TimeoutStopUSec")[0]["TimeoutStopUSec"]
        parts = re.findall(r"([\d.]+)([a-z]+)", text)
        if not parts or any(unit not in _UNITS_S for _, unit in parts):
            return None
        return sum(float(amount) * _UNITS_S[unit] for amount, unit in parts)

    def log_lines(self, count: int) -> list[str]:
        """The last lines of the journal; none for a user who may not read it."""
        options = ("--no-pager", "--quiet", "--output=cat", f"--lines={count}")
        try:
            return run("journalctl", f"--unit={INSTANCES}", *options).splitlines()
        except OwnerError as error:
            # It knows no unit of a pattern before the first one has started.
            if "No data available" in str(error):
                return []
            raise

    def _forget_failures(self) -> None:
        failed = [instance(one.number) for one in self.owned() if one.state == "failed"]
        # The umbrella has failed with the first of them, and a stop leaves it so.
        if show(UMBRELLA, "ActiveState")[0]["ActiveState"] == "failed":
            failed.append(UMBRELLA)
        if failed:
            systemctl("reset-failed", *failed)

    def _is_ending(self) -> bool:
        umbrella = show(UMBRELLA, "ActiveState")[0]["ActiveState"]
        return umbrella == "deactivating" or any(owned.pid for owned in self.owned())

    def _signal(self, number: str) -> None:
        for owned in self.owned():
            if owned.pid:
                # To the main process alone; systemd kills what that leaves behind. It may have
                # ended in between.
                with suppress(OwnerError):
                    unit = instance(owned.number)
                    systemctl("kill", "--kill-who=main", f"--signal={number}", unit)

    def _pid(self, number: int) -> int:
        return int(show(instance(number), "MainPID")[0]["MainPID"])

    def _state(self, number: int) -> str:
        return show(instance(number), "ActiveState")[0]["ActiveState"]


def _wanted(umbrella: dict[str, str]) -> set[int]:
    return {int(number) for number in re.findall(r"qa-celery@(\d+)\.service", umbrella["Wants"])}


def _require_key_file() -> None:
    # `systemctl show` cannot print it; of several the last counts, and an empty one takes it back.
    named = _LOAD_CREDENTIAL.findall(systemctl("cat", instance(1)))
    path = named[-1].partition(":")[2] if named else ""
    if path and not os.path.exists(path):  # noqa: PTH110, nor does it raise where nobody may look
        text = _("{path} is missing: write the API key there, systemd starts no worker without it")
        raise ConfigError(text.format(path=path))


def _say_level(log_level: str | None) -> None:
    if log_level is not None:
        replace(START_ENV, f"QAWORKER_LOG_LEVEL={log_level}\n")
        return
    with writing(START_ENV):
        START_ENV.unlink(missing_ok=True)
