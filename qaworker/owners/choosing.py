"""Finds who owns this host's workers, and lets there be only one."""

from __future__ import annotations

from collections.abc import Iterable
from gettext import gettext as _

from qaworker.errors import OwnerError
from qaworker.owners import memory
from qaworker.owners.owner import Owner, OwnerName
from qaworker.owners.pids import PidFiles
from qaworker.owners.supervisord import Supervisord
from qaworker.owners.systemd import Systemd
from qaworker.settings import Settings
from qaworker.store.heartbeats import Beat


def known(values: Settings) -> list[Owner]:
    """Every owner there is, in the order in which they are preferred."""
    place = (values.runtime_dir, values.log_dir, values.stop_timeout_s)
    return [Systemd(), Supervisord(*place), PidFiles(*place)]


def is_busy(owner: Owner) -> bool:
    """Whether it has workers, or is told to run some.

    Raises:
        OwnerError: it does not answer.
        NotAllowed: it does not answer this user.
    """
    return owner.is_available() and (
        any(owned.pid for owned in owner.owned()) or owner.expected() > 0
    )


def _has_processes(owner: Owner) -> bool:
    """Whether a process of it runs, or may at any moment."""
    return owner.is_available() and any(
        owned.state in {"running", "starting", "stopping"} for owned in owner.owned()
    )


def in_charge(values: Settings) -> Owner | None:
    """Who has this host's workers; when nobody has any, who would start them, but for the last resort.

    Raises:
        OwnerError: an owner does not answer.
        NotAllowed: an owner does not answer this user.
    """
    systemd, supervisord, pids = known(values)
    for owner in (systemd, supervisord, pids):
        if is_busy(owner):
            return owner
    return next((owner for owner in (systemd, supervisord) if owner.is_available()), None)


def choose(values: Settings, via: OwnerName | None, living: Iterable[Beat]) -> Owner:
    """Who is to start workers here.

    Args:
        values: the settings.
        via: the owner that was asked for.
        living: workers of this host whose heart beats; a hung owner may have some.

    Raises:
        OwnerError: another owner has workers here, or the one asked for is not there.
        NotAllowed: an owner does not answer this user.
    """
    owners = {owner.name: owner for owner in known(values)}
    marks = {beat.owner for beat in living}
    for name, owner in owners.items():
        if name not in marks and not _has_processes(owner):
            continue
        if via not in {None, name}:
            raise OwnerError(
                _(
                    "workers run under {owner} here: stop them first, with start_celery.sh stop"
                ).format(owner=name)
            )
        return owner
    if via is not None:
        if via == "systemd" and not owners[via].is_available():
            raise OwnerError(_("qa-celery is not installed: run sudo deploy/install.sh"))
        return owners[via]
    last = memory.recall(values.runtime_dir).owner
    # Units that were uninstalled since are not to be asked.
    return in_charge(values) or owners["pid" if last in {None, "systemd"} else last]
