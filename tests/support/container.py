"""A machine of the tests' own with a real systemd: this machine's files under an overlay, in a container."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.commands import Ran
from tests.support.processes import Process
from tests.support.waiting import wait_until

BOOT_S = 120.0
POWEROFF_S = 60.0
COMMAND_S = 120.0
_numbers = itertools.count(1)
PROGRAMS = ("systemd-nspawn", "nsenter", "unshare", "dbus-daemon")

# All mounts stand in a namespace of their own, and vanish with the process that holds it.
# $1: a directory. A tmpfs, because an overlay's upper layer cannot lie on an overlay. Of the control groups
# the container sees a branch of its own ($2): two of them must not manage the same one.
HOLD = """set -eu
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
# What this machine starts at boot it need not.
rm -rf "$1/root/etc/systemd/system/"*.wants "$1/root/etc/rc"?.d
echo "$2" > "$1/root/etc/hostname"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
umount --lazy /sys/fs/cgroup || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$2"
touch "$1/held"
exec sleep infinity
"""
BOOT = """set -eu
echo $$ > "/sys/fs/cgroup/$2/cgroup.procs"
root=$1/root name=$2
shift 2
exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --machine="$name" "$@"
"""


def missing() -> str:
    """What this machine lacks for it; empty when nothing."""
    if os.geteuid() != 0:
        return "root"
    return ", ".join(name for name in PROGRAMS if not shutil.which(name))


class Container:
    """Boots when constructed; what it writes is lost at its end, and kept over :meth:`reboot`.

    Args:
        name: what its host name begins with.
        binds: directories of this machine that it sees, and where; those are writable there as here.
        readonly: likewise, not writable.

    It shares the network with this machine, and has a ``/tmp`` of its own.
    """

    def __init__(self, name: str, *, binds: dict[Path, str], readonly: dict[Path, str]) -> None:
        self._name = f"{name}-{os.getpid()}-{next(_numbers)}"
        self._directory = Path(tempfile.mkdtemp(prefix="qaw-host-", dir="/tmp"))
        self._mounts = self._directory / "mounts"
        self._mounts.mkdir()
        self._options = [
            *(f"--bind={here}:{there}" for here, there in binds.items()),
            *(f"--bind-ro={here}:{there}" for here, there in readonly.items()),
        ]
        self._machine: Process | None = None
        self._leader = 0
        self._holder = self._process("holder", "unshare", "--mount", *self._shell(HOLD))
        try:
            held = Path(f"/proc/{self._holder.pid}/root{self._mounts}/held")
            self._holder.wait_ready(held, BOOT_S, "the mounts of the container")
            self.boot()
        except BaseException:
            self.end()
            raise

    def boot(self) -> None:
        """Start the machine and wait until it is up."""
        into = ("nsenter", f"--target={self._holder.pid}", "--mount")
        machine = self._process("console", *into, *self._shell(BOOT, *self._options))
        self._machine = machine

        def leader() -> int:
            machine.check_alive()
            children = Path(f"/proc/{machine.pid}/task/{machine.pid}/children").read_text("ascii")
            return next((pid for pid in map(int, children.split()) if _is_init(pid)), 0)

        def is_up() -> bool:
            machine.check_alive()
            return self.run("systemctl", "is-system-running", check=False).out.strip() in {
                "running",
                "degraded",
            }

        self._leader = wait_until(leader, BOOT_S, "the container's first process")
        wait_until(is_up, BOOT_S, "the container to boot")

    def reboot(self) -> None:
        """Shut the machine down in order and start it again on its files."""
        self.power_off()
        self.boot()

    def power_off(self) -> None:
        """Shut the machine down in order."""
        assert self._machine
        self.run("systemctl", "poweroff", check=False)
        self._machine.wait_exit(POWEROFF_S)
        self._machine, self._leader = None, 0

    def run(
        self, *arguments: str | Path, check: bool = True, timeout_s: float = COMMAND_S, **env: str
    ) -> Ran:
        """Run a command in it as root, and fail, when ``check``, unless it exits 0."""
        done = subprocess.run(
            self.command(*arguments, **env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert not check or ran.code == 0, (arguments, ran)
        return ran

    def command(self, *arguments: str | Path, **env: str) -> list[str]:
        """The command as this machine has to run it, for processes that go on in the background."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"PATH": path, "HOME": "/root", "LANG": "C.UTF-8", **env}
        return [
            *("nsenter", f"--target={self._leader}", "--all"),
            *(
                "env",
                "--ignore-environment",
                "--chdir=/",
                *(f"{name}={value}" for name, value in environment.items()),
            ),
            *map(str, arguments),
        ]

    def read(self, path: str) -> str:
        """The content of a file in it."""
        return self.run("cat", path).out

    def write(self, path: str, text: str) -> None:
        """Give a file in it this content; an existing one keeps its owner and mode."""
        subprocess.run(
            self.command("tee", path), input=text, text=True, capture_output=True, check=True
        )

    def end(self) -> None:
        """Shut it down, by force if it must be, and remove all of it."""
        try:
            if self._machine:
                self.power_off()
        finally:
            group = Path(f"/proc/{self._holder.pid}/root/sys/fs/cgroup/{self._name}")
            if group.exists():
                (group / "cgroup.kill").write_text("1", "ascii")
                wait_until(lambda: _is_removed(group), POWEROFF_S, "the end of all its processes")
            if self._machine:
                self._machine.end()
            self._holder.end()
            shutil.rmtree(self._directory)

    def _shell(self, script: str, *arguments: str) -> Sequence[str]:
        return ("bash", "-c", script, "bash", str(self._mounts), self._name, *arguments)

    def _process(self, name: str, *arguments: str) -> Process:
        return Process(
            arguments, log=self._directory / name, cwd=Path("/"), env={"PATH": os.environ["PATH"]}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()


def _is_init(pid: int) -> bool:
    """Whether it is the first process of a container; what only prepares one is not."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False
    numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
    return len(numbers) > 1 and numbers[-1] == "1"


def _is_removed(group: Path) -> bool:
    # Children first; one is busy until its last process has ended.
    for path in (*sorted(group.rglob("*/"), reverse=True), group):
        with contextlib.suppress(OSError):
            path.rmdir()
    return not group.exists()
