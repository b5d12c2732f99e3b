"""deploy/install.sh on a host with a real systemd, and the units as it installs them."""

from __future__ import annotations

import re

import pytest

from tests.support.processes import ROOT
from tests.support.systemd_host import ENV_FILE, KEY_FILE, UMBRELLA, SystemdHost, unit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

UNITS = sorted(path.name for path in (ROOT / "deploy" / "systemd").iterdir())
# "OK" begins below 5; a sample of Celery's own project has 9.2.
MOST_EXPOSED = 2.0
# Whatever install.sh may write, as path, owner, mode and content.
STATE = (
    "find /etc /opt/qaworker /srv/qaworker /usr/local /var/lib/qaworker /var/log/qaworker -xdev"
    r" -not -path '*/venv/*' \( -type f -exec sha256sum {} + , -printf '%p %u:%g %m\n' \) | sort"
)


TIMEOUT_FILE = "/etc/systemd/system/qa-celery@.service.d/timeout.conf"


def changes(before: str, after: str) -> set[str]:
    return set(before.splitlines()) ^ set(after.splitlines())


def state(host: SystemdHost) -> str:
    return host.run("bash", "-c", STATE).out


@pytest.mark.parametrize("name", UNITS)
def test_units_are_valid_and_confined(host: SystemdHost, name: str) -> None:
    name = name.replace("@.", "@1.")
    verified = host.run("systemd-analyze", "verify", f"/etc/systemd/system/{name}", check=False)
    assert (verified.code, verified.out, verified.err) == (0, "", "")
    if name.endswith(".service"):
        said = host.run("systemd-analyze", "security", "--no-pager", name).out
        level = re.search(rf"exposure level for {name}: ([\d.]+)", said)
        assert level, said
        assert float(level[1]) <= MOST_EXPOSED


def test_what_is_installed_works_and_has_its_rights(host: SystemdHost) -> None:
    paths = {
        ENV_FILE: "root:qaworker 640",
        KEY_FILE: "root:root 600",
        "/run/qaworker": "qaworker:qaworker 750",
        "/var/log/qaworker": "qaworker:qaworker 750",
        "/etc/logrotate.d/qaworker": "root:root 644",
        "/opt/qaworker/venv/bin/qaworker": "root:root 755",
    }
    said = host.run("stat", "--format=%n=%U:%G %a", *paths).out
    assert dict(line.split("=") for line in said.splitlines()) == paths
    assert host.run("qaworker", "config", "--check", check=False).code == 78
    assert host.run("start_celery.sh", "status", check=False).code == 3
    assert host.run("logrotate", "--debug", "/etc/logrotate.d/qaworker").code == 0


def test_again_is_an_upgrade_that_keeps_what_is_the_operators(host: SystemdHost) -> None:
    host.write(KEY_FILE, "sk-kept\n")
    host.configure(QAWORKER_TASK_HARD_LIMIT_S="600")
    before, timeout = state(host), host.read(TIMEOUT_FILE)
    said = host.install().out
    try:
        assert "systemctl enable --now qa-celery" in said
        changed = {line.split()[-1] for line in changes(before, state(host))}
        # What a stop may take follows from the settings; nothing else differs.
        assert changed == {TIMEOUT_FILE}
        assert host.property("TimeoutStopUSec", unit(1)) == "10min 30s"
        assert host.property("Wants").count("qa-celery@") == 3
    finally:
        host.write(TIMEOUT_FILE, timeout)
        host.systemctl("daemon-reload")


def test_a_wrong_setting_is_named(host: SystemdHost) -> None:
    host.configure(QAWORKER_THREADS="many")
    ran = host.install(check=False)
    assert ran.code == 78
    assert "QAWORKER_THREADS" in ran.complaint


def test_a_dry_run_writes_nothing(host: SystemdHost) -> None:
    before = state(host)
    said = host.install("--dry-run", "--workers", "7", "--prefix", "/opt/other").out
    assert "/opt/other/venv" in said
    assert state(host) == before
    assert host.run("test", "-e", "/opt/other", check=False).code == 1


def test_uninstalling_keeps_what_is_the_operators(fresh_host: SystemdHost) -> None:
    """On a host of its own, at another prefix."""
    host, prefix = fresh_host, "/srv/qaworker"
    host.install("--prefix", prefix, "--workers", "2")
    host.shipped_env = host.read(ENV_FILE)
    host.configure()
    host.write(KEY_FILE, "sk-kept\n")
    host.run("touch", "/var/log/qaworker/kept.log", "/var/lib/qaworker/runs/kept")
    host.systemctl("enable", "--now", UMBRELLA)
    assert host.states() == ["active"] * 2
    assert f"{prefix}/venv/" in host.property("ExecStart", unit(1))

    drop_in = "/etc/systemd/system/qa-celery-monitor.service.d"
    host.run("mkdir", drop_in)

    # It knows where.
    assert drop_in in host.install("--uninstall").out
    host.run("rmdir", drop_in)
    assert host.states() == []
    left = state(host)
    installed = ("system/qa-celery", "/bin/qaworker", "/bin/start_celery", "/bin/celery_monitor")
    for gone in (*installed, "logrotate.d/qaworker", "tmpfiles.d/qaworker", prefix):
        assert gone not in left
    for kept in (ENV_FILE, KEY_FILE, "/var/log/qaworker/kept.log", "/var/lib/qaworker/runs/kept"):
        assert kept in left
    assert host.property("LoadState") == "not-found"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--workers", "0"], 2, "--workers"),
        (["--workers", "257"], 2, "from 1 to 256"),
        (["--workers"], 2, "--workers wants a value"),
        (["--prefix", "opt"], 2, "--prefix"),
        (["--frobnicate"], 2, "--frobnicate"),
    ],
)
def test_a_wrong_option_is_one_line(
    host: SystemdHost, options: list[str], code: int, words: str
) -> None:
    ran = host.install(*options, check=False)
    assert ran.code == code
    assert words in ran.complaint
