"""Starts, stops and replaces this host's workers through whoever owns them, and says what happened."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from gettext import gettext as _
from typing import Final

from redis import Redis

from qaworker.app import configuration
from qaworker.errors import Busy, OwnerError, StoreUnavailable
from qaworker.owners import choosing, ending, expecting, memory, processes
from qaworker.owners.lock import locked
from qaworker.owners.owner import Owned, Owner, OwnerName
from qaworker.owners.readiness import HOST, living_here, wait_until_up
from qaworker.owners.redis_at_hand import answering
from qaworker.owners.remaining import runs_on
from qaworker.owners.systemd import Systemd
from qaworker.owners.takeover import taken_over
from qaworker.settings import Settings
from qaworker.store import fleet, heartbeats
from qaworker.store.heartbeats import Beat

Say = Callable[[str], None]

DEFAULT_WORKERS: Final = 4
START_TIMEOUT_S: Final = 60.0
# For those that are still on their way.
_ANNOUNCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What to start; None leaves it as it is, or to the defaults."""

    via: OwnerName | None = None
    workers: int | None = None
    log_level: str | None = None
    timeout_s: float = START_TIMEOUT_S
    """For each worker to consume."""


def start(values: Settings, wish: Wish, say: Say) -> None:
    """Let so many workers run, and return when all consume.

    Raises:
        StoreUnavailable: Redis does not answer.
        ConfigError: a setting is wrong, for this command or for a worker.
        Busy: another command starts or stops workers.
        OwnerError: another owner has workers here, or not all consume in time.
        NotAllowed: the owner wants more rights.
    """
    with locked(values.runtime_dir, "start"), answering(values) as redis:
        owner = _chosen(values, wish, redis)
        fleet.resume_all_on(redis, HOST)
        for beat in _running_here(redis):
            if beat.state == "draining":
                text = _(
                    "{name} was told to stop and is still at it: start again when it has ended"
                )
                raise Busy(text.format(name=beat.name))
        before = _processes(owner)
        workers = _workers(values, owner, wish)
        numbers = set(range(1, workers + 1))
        if set(before) == numbers:
            expecting.expect(values, redis, workers)
            wait_until_up(redis, owner, numbers, wish.timeout_s)
            say(_("running already"))
        else:
            _start(values, redis, owner, wish, say=say)
        levels = {beat.log_level for beat in _running_here(redis)}
        if wish.log_level and levels != {wish.log_level}:
            text = _("those that ran keep their log level: restart -l {level} changes it")
            say(text.format(level=wish.log_level))
        _tell(redis, owner, say)


def restart(values: Settings, wish: Wish, say: Say) -> None:
    """Replace the workers one after the other, each consuming before the next one stops.

    Raises:
        StoreUnavailable, ConfigError, Busy, OwnerError, NotAllowed: see :func:`start`; workers
            that were not replaced go on.
    """
    with locked(values.runtime_dir, "restart"), answering(values) as redis:
        owner = _chosen(values, wish, redis)
        fleet.resume_all_on(redis, HOST)
        before = _processes(owner)
        if not before:
            say(_("no worker runs: starting"))
        workers = _start(values, redis, owner, wish, say=say)
        for number in sorted(number for number in before if number <= workers):
            owner.restart(number, values.stop_timeout_s)
            wait_until_up(redis, owner, {number}, wish.timeout_s)
            say(_("worker {number} replaced").format(number=number))
        if wish.log_level:
            text = _("they log at the level {level} until the next restart")
            say(text.format(level=wish.log_level))
        _tell(redis, owner, say)


def stop(values: Settings, via: OwnerName | None, timeout_s: float | None, say: Say) -> None:
    """End the workers in order, and say what they finished and what went back to the queue.

    Redis is not needed. After ``timeout_s`` (by default longer than any task takes) by force.

    Raises:
        Busy: another command starts or stops workers.
        OwnerError: the owner does not answer or could not end them, or they are another's.
        NotAllowed: the owner wants more rights.
    """
    timeout_s = values.stop_timeout_s if timeout_s is None else timeout_s
    with locked(values.runtime_dir, "stop"):
        everyone = [owner for owner in choosing.known(values) if choosing.is_busy(owner)]
        busy = [owner for owner in everyone if via in {None, owner.name}]
        rest = [owner for owner in everyone if owner not in busy]
        if rest and not busy:
            text = _(
                "workers run under {owner} here: start_celery.sh stop, without --via, stops them"
            )
            raise OwnerError(text.format(owner=rest[0].name))
        # First, so that nobody misses those that drain.
        is_told = expecting.record(values, sum(owner.expected() for owner in rest), say)
        numbers: list[int] = []
        for owner in busy:
            running = sorted(_processes(owner))
            numbers += running
            if running:
                text = _(
                    "stopping {count} (owner: {owner}): calls on the wire are finished,"
                    " for at most {timeout_s:g} s"
                )
                count = len(running)
                say(text.format(count=count, owner=owner.name, timeout_s=timeout_s))
            try:
                owner.stop(timeout_s)
            except OwnerError:
                expecting.record(values, sum(owner.expected() for owner in everyone), say)
                raise
        others = _tell_farewells(values, numbers, say) if is_told else []
        if busy:
            say(_("stopped"))
        elif not others:
            say(_("no worker runs"))


def sweep(values: Settings, say: Say) -> None:
    """Kill every process of this installation, whoever its parent is, and nobody else's.

    Raises:
        Busy: another command is at work here, and does not end even by force.
        NotAllowed: their owner wants more rights, and would start them again.
        OwnerError: a process does not end even so.
    """
    runtime_dir = values.runtime_dir.resolve()
    found = processes.marked(runtime_dir)
    if not found:
        say(_("no process of this installation ({path}) runs").format(path=runtime_dir))
    for process in found:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.started_at))
        say(f"{process.pid}\t{since}\t{process.command}")
    numbers: set[int] = set()
    with taken_over(runtime_dir, "stop --force"):
        is_told = expecting.record(values, 0, say)
        for owner in choosing.known(values):
            if choosing.is_busy(owner):
                numbers |= _processes(owner).keys()
                # It would start again what is killed.
                owner.stop(0.0)
        ending.kill_marked(runtime_dir)
    if is_told:
        _tell_farewells(values, sorted(numbers), say)
    if found:
        say(_("{count} processes ended").format(count=len(found)))


def announce(values: Settings) -> None:
    """Record how many workers the owner is to run here, as it is configured.

    Raises:
        StoreUnavailable: Redis does not answer.
        OwnerError: not all of them consume, or nobody owns any.
    """
    owner = choosing.in_charge(values)
    if owner is None:
        raise OwnerError(_("nobody owns workers here: start them with start_celery.sh start"))
    with answering(values) as redis:
        workers = owner.expected()
        fleet.resume_all_on(redis, HOST)
        expecting.expect(values, redis, workers)
        wait_until_up(redis, owner, set(range(1, workers + 1)), _ANNOUNCE_S)


def _chosen(values: Settings, wish: Wish, redis: Redis) -> Owner:
    """The owner to start with, once it is clear that workers could start."""
    configuration(values)
    here = _running_here(redis)
    owner = choosing.choose(values, wish.via, here)
    # The workers of systemd and of a supervisord that runs have the settings of theirs.
    if owner.name == "pid" or not owner.is_available():
        values.require_api_key()
    owned = {one.pid for one in owner.owned()}
    for beat in here:
        if beat.pid not in owned and beat.number <= _workers(values, owner, wish):
            raise OwnerError(
                _("{name} runs already, and was not started by {owner}: kill -TERM {pid}").format(
                    name=beat.name, owner=owner.name, pid=beat.pid
                )
            )
    return owner


def _running_here(redis: Redis) -> list[Beat]:
    """Workers of this host that live, whoever started them."""
    return [beat for beat in living_here(redis) if processes.exists(beat.pid)]


def _workers(values: Settings, owner: Owner, wish: Wish) -> int:
    """As many as are wished for, run, or were started last."""
    return wish.workers or owner.expected() or _last(values, owner) or DEFAULT_WORKERS


def _last(values: Settings, owner: Owner) -> int:
    """How many ran before the stop; 0 when that is not known."""
    return (
        owner.configured()
        if isinstance(owner, Systemd)
        else memory.recall(values.runtime_dir).workers
    )


def _start(values: Settings, redis: Redis, owner: Owner, wish: Wish, *, say: Say) -> int:
    """Start what is missing and stop the surplus; how many run in the end, all consuming."""
    before = _processes(owner)
    workers = _workers(values, owner, wish)
    _forget_the_dead(redis, say)
    if not wish.workers and not owner.expected() and _last(values, owner):
        text = _("as before: {workers} under {owner}")
        say(text.format(workers=workers, owner=owner.name))
    owner.start(workers, wish.log_level)
    memory.keep_start(values.runtime_dir, owner.name, workers)
    expecting.expect(values, redis, workers)
    for number in sorted(number for number in before if number > workers):
        say(_("worker {number} stopped").format(number=number))
    wait_until_up(redis, owner, set(range(1, workers + 1)) - before.keys(), wish.timeout_s)
    if isinstance(owner, Systemd):
        owner.settle(wish.timeout_s)
    return workers


def _processes(owner: Owner) -> dict[int, Owned]:
    return {owned.number: owned for owned in owner.owned() if owned.pid}


def _forget_the_dead(redis: Redis, say: Say) -> None:
    """Clear the heartbeats of this host's processes that are provably gone."""
    for seen in heartbeats.seen(redis):
        beat = seen.beat
        if beat.host == HOST and not seen.is_living and not processes.exists(beat.pid):
            heartbeats.forget(redis, beat.name)
            say(_("cleared what {name} left (process {pid} is gone)").format(**beat.model_dump()))


def _tell(redis: Redis, owner: Owner, say: Say) -> None:
    beats = {beat.pid: beat for beat in living_here(redis)}
    running = _processes(owner)
    say(_("workers: {count}, owner: {owner}").format(count=len(running), owner=owner.name))
    for owned in running.values():
        beat = beats.get(owned.pid)
        state = f"{beat.state}, {beat.log_level}" if beat else owned.state
        if beat and beat.state == "quiet":  # it was told to consume, and obeys with its next beats
            state = _("was quiet, consumes within 10 s, {level}").format(level=beat.log_level)
        say(f"  qa_worker-{owned.number}@{HOST}  {owned.pid}  {state}")


def _tell_farewells(values: Settings, numbers: Collection[int], say: Say) -> list[Beat]:
    """Say what those that ended said at last, and who runs on all the same; the latter."""
    others: list[Beat] = []
    try:
        with answering(values) as redis:
            for number in numbers:
                name = f"qa_worker-{number}@{HOST}"
                if (farewell := heartbeats.farewell(redis, name)) is not None:
                    text = _("{name}: tasks finished: {finished}, handed back: {handed_back}")
                    say(text.format(name=name, **farewell.model_dump()))
                    continue
                heartbeats.forget(redis, name)
                text = _("{name} left no word: what it held is in the queue again within a minute")
                say(text.format(name=name))
            others = _running_here(redis)
            for beat in others:
                say(runs_on(beat, values.runtime_dir))
    except StoreUnavailable as error:
        say(str(error))
    return others
