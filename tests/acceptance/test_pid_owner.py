"""start_celery.sh without systemd and supervisord: whom it signals, and whom it never does."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qaworker.owners.lock import LOCK_NAME
from qaworker.owners.processes import MARKER, Process
from qaworker.store import fleet, heartbeats
from tests.acceptance.operator import Operator
from tests.acceptance.site import Site, check_complete
from tests.support import processes
from tests.support.processes import child_environment
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

CHUNKS = 72
FEW_CALLS = {"QAWORKER_CALLS_IN_FLIGHT": "12", "QAWORKER_THREADS": "2"}
OTHER_APPLICATION = """
from celery import Celery
app = Celery("celery_qa_worker", broker="redis+socket://{address}",
             broker_transport_options={{"global_keyprefix": "other:"}})

@app.task(ignore_result=True)
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
"""

Operate = Callable[..., Operator]


@pytest.fixture
def operate(site: Site, tmp_path: Path) -> Iterator[Operate]:
    """Makes the operator of a site whose API runs; in the end nothing of the installation does."""
    made: list[Operator] = []

    def make(**env: str) -> Operator:
        made.append(Operator(tmp_path, site, **FEW_CALLS, **env))
        return made[-1]

    yield make
    for operator in made:
        operator.end()


@pytest.fixture
def bystander(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of nobody's concern."""
    with subprocess.Popen(["sleep", "300"], cwd=tmp_path) as child:
        yield child
        child.kill()


def pid_file(operator: Operator, number: int) -> Path:
    return operator.runtime_dir / f"qa_worker-{number}.pid"


def test_scaling_leaves_those_alone_that_stay(site: Site, operate: Operate) -> None:
    site.simulate()
    operator = operate()
    operator.do("start", "-w", "2", "-l", "debug")
    two = operator.pids()
    assert set(two) == {1, 2}
    assert {beat.log_level for beat in heartbeats.living(site.redis)} == {"debug"}
    assert "running already" in operator.do("start")
    operator.do("start", "-w", "4")
    four = operator.pids()
    assert set(four) == {1, 2, 3, 4}
    assert four.items() >= two.items()
    assert fleet.expected(site.redis) == {socket.gethostname(): 4}
    operator.do("start", "-w", "1")
    assert operator.pids() == {1: two[1]}
    assert [process.pid for process in operator.processes()] == [two[1]]
    refused = operator.run("start", "--via", "supervisor")
    assert refused.code == 1
    assert "run under pid" in refused.complaint
    operator.do("start", "-w", "2")
    assert "no worker runs" not in operator.do("stop")
    assert "no worker runs" in operator.do("stop")
    assert fleet.expected(site.redis) == {socket.gethostname(): 0}
    # As many as there were.
    operator.do("start")
    assert set(operator.pids()) == {1, 2}


def test_a_restart_under_load_replaces_one_after_the_other(site: Site, operate: Operate) -> None:
    site.simulate("--latency", "0.5")
    operator = operate()
    operator.do("start", "-w", "3")
    before = operator.pids()
    client = site.generate(site.dataset(400), "run", "--use-celery")
    site.wait_calls(20)
    least = len(before)
    with operator.begin("restart") as restart:
        while restart.exit_code is None:
            consuming = [
                beat for beat in heartbeats.living(site.redis) if beat.state == "consuming"
            ]
            least = min(
                least, len({beat.pid for beat in consuming} & set(operator.pids().values()))
            )
        assert restart.exit_code == 0, restart.output
    after = operator.pids()
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())
    assert least == len(before) - 1
    assert client.wait_exit(60) == 0, client.output
    assert site.api.stats()["max_calls_per_chunk"] == 1
    check_complete(site, "run", 400)


def test_another_applications_worker_is_never_touched(
    site: Site, operate: Operate, tmp_path: Path
) -> None:
    """Not by a stop, not by the sweep of orphans; it looks as much like one of ours as it can."""
    site.simulate("--latency", "100")
    directory = tmp_path / "qaworker"
    directory.mkdir()
    address = site.redis_url.removeprefix("unix://")
    (directory / "other.py").write_text(OTHER_APPLICATION.format(address=address))
    # Another installation's mark, as if somebody had started it from a worker's environment.
    env = child_environment(directory, **{MARKER: str(tmp_path)})
    celery = [sys.executable, "-m", "celery", "-A", "other"]
    with processes.Process(
        [*celery, "worker", "-n", "qa_worker-1@%h", "-c", "1", "-l", "info"],
        log=directory / "log",
        cwd=directory,
        env=env,
    ) as other:
        wait_until(lambda: " ready." in other.output, 30, "the other application's worker")
        operator = operate(QAWORKER_POOL="prefork", QAWORKER_PREFORK_CHILDREN="2")
        operator.do("start", "-w", "2")
        operator.do("stop")
        operator.do("start", "-w", "2")
        site.generate(site.dataset(CHUNKS), "run", "--use-celery")
        site.wait_in_flight(4)
        killed = operator.pids()[1]
        orphans = [one for one in operator.processes() if one.pid != killed]
        operator.kill(1)
        said = operator.do("stop", "--force")
        assert not operator.processes()
        assert all(str(orphan.pid) in said for orphan in orphans if orphan.is_running)
        assert str(other.pid) not in said.split()

        written = directory / "written"
        call = [*celery, "call", "other.write", "--args", json.dumps([str(written), "alive"])]
        subprocess.run(call, cwd=directory, env=env, check=True, capture_output=True)
        wait_until(written.exists, 20, "the other application's task")
        other.check_alive()


def test_a_killed_worker_is_started_again_by_the_next_start(site: Site, operate: Operate) -> None:
    site.simulate()
    operator = operate()
    operator.do("start", "-w", "2")
    before = operator.pids()
    operator.kill(1)
    operator.wait_gone(before[1])
    operator.do("start", "-w", "2")
    after = operator.pids()
    assert after[1] != before[1]
    assert after[2] == before[2]


def test_a_process_that_has_the_number_of_a_dead_worker_is_not_signalled(
    site: Site, operate: Operate, bystander: subprocess.Popen[bytes]
) -> None:
    site.simulate()
    operator = operate()
    operator.do("start", "-w", "1")
    file = pid_file(operator, 1)
    recorded = json.loads(file.read_text())
    operator.kill(1)
    operator.wait_gone(recorded["pid"])
    file.write_text(json.dumps(recorded | {"pid": bystander.pid}))
    operator.do("stop", "--timeout", "0")
    assert not file.exists()
    file.write_text(json.dumps(recorded | {"pid": bystander.pid}))
    operator.do("start", "-w", "1")
    assert operator.pids()[1] != bystander.pid
    assert bystander.poll() is None


def test_a_file_that_names_somebody_elses_process_is_left_alone(
    site: Site, operate: Operate, bystander: subprocess.Popen[bytes]
) -> None:
    site.simulate()
    operator = operate()
    operator.runtime_dir.mkdir()
    process = Process.of(bystander.pid)
    assert process is not None
    for text in (f"{bystander.pid}\n", json.dumps(dataclasses.asdict(process)), ""):
        pid_file(operator, 1).write_text(text)
        operator.do("stop", "--timeout", "0")
        refused = operator.run("start", "-w", "1")
        assert refused.code == 1
        assert str(pid_file(operator, 1)) in refused.complaint
    claimed = dataclasses.asdict(process) | {"instance": str(operator.runtime_dir.resolve())}
    pid_file(operator, 1).write_text(json.dumps(claimed))
    refused = operator.run("stop", "--timeout", "0")
    assert refused.code == 1
    assert "none of ours" in refused.complaint
    assert bystander.poll() is None
    pid_file(operator, 1).unlink()


def test_a_worker_started_by_hand_is_not_started_a_second_time(
    site: Site, operate: Operate
) -> None:
    site.simulate()
    worker = site.worker(1)
    operator = operate()
    refused = operator.run("start", "-w", "1")
    assert refused.code == 1
    assert str(worker.pid) in refused.complaint
    operator.do("stop", "--force")
    worker.check_alive()


def test_redis_away_is_said_before_anything_is_started(site: Site, operate: Operate) -> None:
    site.simulate()
    operator = operate()
    for command in ("start", "restart"):
        refused = operator.run(command, REDIS_URL="unix:///nowhere/redis.sock")
        assert refused.code == 75
        assert "sudo systemctl start redis-server" in refused.complaint
        assert "brew services start redis" in refused.complaint
    assert not operator.processes()


def test_of_two_starts_at_once_one_is_told_to_wait(site: Site, operate: Operate) -> None:
    site.simulate()
    operator = operate()
    first = operator.begin("start", "-w", "1")
    lock = operator.runtime_dir / LOCK_NAME
    wait_until(lambda: lock.exists() and lock.read_text(encoding="utf-8"), 20, "the first one")
    second = operator.run("start", "-w", "3")
    assert (second.code, second.out) == (75, "")
    assert f"another command is at work here (start, process {first.pid})" in second.complaint
    assert first.wait_exit(60) == 0, first.output
    assert set(operator.pids()) == {1}


def test_a_stop_needs_no_redis(site: Site, operate: Operate) -> None:
    site.simulate()
    operator = operate()
    operator.do("start", "-w", "1")
    said = operator.do("stop", REDIS_URL="unix:///nowhere/redis.sock")
    assert "Redis does not answer" in said
    assert not operator.processes()


def test_a_stop_that_nobody_waits_for_goes_on(site: Site, operate: Operate) -> None:
    """Ctrl-C at a stop; a start right then would find processes that are about to end."""
    site.simulate("--latency", "15")
    operator = operate()
    operator.do("start", "-w", "1")
    site.generate(site.dataset(12), "run", "--use-celery")
    site.wait_in_flight(12)
    with operator.begin("stop") as stop:
        wait_until(
            lambda: [beat.state for beat in heartbeats.living(site.redis)] == ["draining"],
            30,
            "the worker to drain",
        )
        stop.signal(signal.SIGINT)
        assert stop.wait_exit(10) == 130
    refused = operator.run("start", "-w", "1")
    assert refused.code == 75
    assert "qa_worker-1" in refused.complaint
    wait_until(lambda: not operator.processes(), 30, "the worker to end")
    assert site.api.stats()["calls"] == 12
    operator.do("start", "-w", "1")


def test_a_wrong_setting_of_the_workers_is_said_with_their_last_line(
    site: Site, operate: Operate
) -> None:
    site.simulate()
    operator = operate(QAWORKER_LIMITS_FILE="nowhere.json")
    refused = operator.run("start", "-w", "1")
    assert refused.code == 78
    assert "QAWORKER_LIMITS_FILE" in refused.complaint
    assert operator.run("status").code == 1
    operator.do("stop")
    assert operator.run("status").code == 3
