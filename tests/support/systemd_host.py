"""A host of the tests' own with a real systemd, where deploy/install.sh installed qaworker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from redis import Redis

from qaworker.store import heartbeats
from qaworker.store.heartbeats import Beat
from tests.support.commands import Ran
from tests.support.container import Container
from tests.support.processes import ROOT, Process
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

INSTALL_S = 600.0
START_S = 120.0
STOP_S = 60.0
# Where the host sees the checkout and the sockets of this machine.
CHECKOUT = "/srv/checkout"
SOCKETS = "/srv/sockets"
ENV_FILE = "/etc/qaworker/qaworker.env"
KEY_FILE = "/etc/qaworker/openai_api_key"
UMBRELLA = "qa-celery.service"
INSTANCES = "qa-celery@*.service"
EXPORTER = "qa-celery-exporter.service"


def unit(number: int) -> str:
    """The unit of one worker process."""
    return f"qa-celery@{number}.service"


class SharedRedis(RedisServer):
    """A Redis of this machine that the host's user qaworker may use, too."""

    def __init__(self) -> None:
        super().__init__(appendonly=True)
        self.directory = self._directory
        self.directory.chmod(0o755)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        super().start()
        self._socket.chmod(0o777)


class SystemdHost(Container):
    """Boots when constructed; every test gets it as :meth:`reset` leaves it."""

    def __init__(self, redis: SharedRedis) -> None:
        super().__init__("qaw", binds={redis.directory: SOCKETS}, readonly={ROOT: CHECKOUT})
        self.redis_server = redis
        self.redis_url = f"unix://{SOCKETS}/redis.sock"
        self.shipped_env = ""

    def install(self, *options: str, check: bool = True) -> Ran:
        """Run deploy/install.sh."""
        # What tells this machine's pip where packages are tells that of the host.
        network = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.lower().endswith("_proxy")
        }
        script = f"{CHECKOUT}/deploy/install.sh"
        return self.run(script, *options, check=check, timeout_s=INSTALL_S, **network)

    def configure(self, **settings: str) -> None:
        """Write the installation's settings: as shipped, on the tests' Redis, and these."""
        # Any port that is free: the host has the network of this machine.
        ours = {
            "REDIS_URL": self.redis_url,
            "QAWORKER_EXPORTER_LISTEN": "127.0.0.1:0",
            **settings,
        }
        lines = "".join(f"{name}={value}\n" for name, value in ours.items())
        self.write(ENV_FILE, f"{self.shipped_env}\n{lines}")

    def set_workers(self, workers: int) -> None:
        """How many belong to the umbrella, as ``start_celery.sh -w`` writes it."""
        names = " ".join(map(unit, range(1, workers + 1)))
        self.write(
            "/etc/systemd/system/qa-celery.service.d/workers.conf", f"[Unit]\nWants={names}\n"
        )
        self.run("systemctl", "daemon-reload")

    def systemctl(self, *arguments: str, check: bool = True) -> Ran:
        """Run systemctl; a start or stop in it has the time that workers need."""
        return self.run("systemctl", *arguments, check=check, timeout_s=START_S + STOP_S)

    def begin(self, log: Path, *arguments: str) -> Process:
        """Start a command in the host, to go on in the background."""
        env = {"PATH": os.environ["PATH"]}
        return Process(self.command(*arguments), log=log, cwd=Path("/"), env=env)

    def property(self, name: str, of: str = UMBRELLA) -> str:
        """What ``systemctl show`` says."""
        return self.run("systemctl", "show", "--value", f"--property={name}", of).out.strip()

    def states(self) -> list[str]:
        """``ActiveState`` of each worker's unit that is loaded."""
        return self.property("ActiveState", INSTANCES).split()

    def pid(self, number: int) -> int:
        """The main process of a worker, by the host's own count; 0 while there is none."""
        return int(self.property("MainPID", unit(number)))

    def has_workers(self) -> bool:
        """Whether any process of a worker is there."""
        return self.run("pgrep", "--full", "qaworker worker", check=False).out != ""

    def restarts(self, number: int) -> int:
        """How often systemd started a worker again by itself."""
        return int(self.property("NRestarts", unit(number)))

    def journal(self, of: str) -> str:
        """What a unit wrote, and what systemd said of it."""
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={of}").out

    def living(self, redis: Any) -> list[Beat]:
        """The host's workers whose heart beats."""
        return [beat for beat in heartbeats.living(redis) if beat.owner == "systemd"]

    def wait_active(self, timeout_s: float) -> None:
        """Wait until the umbrella, which waits for all workers, is up."""
        wait_until(
            lambda: self.property("ActiveState") == "active", timeout_s, "qa-celery to be active"
        )

    def reset(self) -> None:
        """Stop all there is and forget what a test did."""
        self.systemctl("stop", UMBRELLA, INSTANCES, EXPORTER)
        self.run("systemctl", "reset-failed")
        self.run("rm", "-f", "/run/qaworker.env")
        # A test may have removed it.
        self.write(KEY_FILE, "")
        self.run("chmod", "600", KEY_FILE)
        self.configure()
        with Redis.from_url(self.redis_server.url) as redis:
            redis.flushall()
