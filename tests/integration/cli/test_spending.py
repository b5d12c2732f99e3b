"""What the commands say and ask before they spend."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from qaworker.store.holds import holds
from qaworker.store.ledger import Ledger
from tests.support.commands import LONGEST_S, Run
from tests.support.processes import QAWORKER, child_environment
from tests.support.simulators import SimulatorProcess

TEXT = "The kiln at Orrin burnt lime until 1924. Its chimney still stands beside the quarry.\n"


@pytest.fixture
def api(simulator: Callable[..., SimulatorProcess]) -> SimulatorProcess:
    return simulator("--model", "gpt-5-mini", "--model", "local-7b")


@pytest.fixture
def env(redis_url: str, api: SimulatorProcess) -> dict[str, str]:
    return {"REDIS_URL": redis_url, "OPENAI_BASE_URL": api.base_url}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "kiln.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_plan_is_the_first_line_and_no_line_where_nothing_is_left_to_ask(
    run: Run, env: dict[str, str], dataset: Path
) -> None:
    given = ("generate", "--input-file", dataset, "--output", "run")
    first = run(*given, **env)
    assert first.code == 0, first.err
    assert first.err.splitlines()[0].startswith("plan: 1 chunks, 1 calls; ")
    again = run(*given, **env).err
    assert "plan:" not in again
    assert again.splitlines()[0] == "complete already: nothing was sent"


def test_without_a_terminal_nobody_is_asked(run: Run, env: dict[str, str], dataset: Path) -> None:
    given = ("generate", "--input-file", dataset, "--output", "run")
    assert run(*given, QAWORKER_CONFIRM_USD="0", **env).code == 0


@pytest.mark.parametrize(
    ("answer", "option", "confirm_usd", "is_asked"),
    [
        ("n", None, "0", True),
        ("y", None, "0", True),
        ("n", "--yes", "0", False),
        ("n", "--budget=1", "0", False),
        ("n", None, "10", False),
    ],
)
def test_in_a_terminal_a_person_is_asked_where_it_costs_much(
    env: dict[str, str],
    api: SimulatorProcess,
    tmp_path: Path,
    dataset: Path,
    answer: str,
    option: str | None,
    confirm_usd: str,
    is_asked: bool,
) -> None:
    keyboard, terminal = pty.openpty()
    arguments = ["generate", "--input-file", str(dataset), "--output", "run"]
    with os.fdopen(keyboard, "r+b", buffering=0) as person, os.fdopen(terminal, "r+b", 0) as tty:
        person.write(f"{answer}\n".encode())
        ran = subprocess.run(
            [*QAWORKER, *arguments, *([option] if option else [])],
            env=child_environment(
                tmp_path, QAWORKER_CONFIRM_USD=confirm_usd, COLUMNS="200", TERM="xterm", **env
            ),
            cwd=tmp_path,
            stdin=tty,
            stdout=subprocess.DEVNULL,
            stderr=tty,
            timeout=LONGEST_S,
            check=False,
        )
        shown = os.read(person.fileno(), 65536).decode()
    assert ("spend about $" in shown) is is_asked, shown
    is_sent = answer == "y" or not is_asked
    assert ran.returncode == (0 if is_sent else 130), shown
    assert ("nothing was sent" in shown) is not is_sent
    assert api.stats()["calls"] == int(is_sent)


@pytest.mark.parametrize("command", ["generate", "submit"])
def test_a_budget_for_a_model_without_a_price_is_refused_before_anything_is_done(
    run: Run, env: dict[str, str], dataset: Path, tmp_path: Path, redis_client: Redis, command: str
) -> None:
    given = (command, "--input-file", dataset, "--output", "run", "--model", "local-7b")
    ran = run(*given, "--budget", "5", **env)
    assert (ran.code, ran.out) == (78, "")
    assert ran.complaint == (
        "qaworker: the price of local-7b is not known: name a file in QAWORKER_PRICES_FILE, in"
        ' dollars per million tokens: {"models": {"local-7b": {"input": 0.25, "output": 2.0}}}'
    )
    assert not (tmp_path / "run").exists()
    assert redis_client.dbsize() == 0

    prices = tmp_path / "prices.json"
    prices.write_text(json.dumps({"models": {"local-7b": {"input": 0.25, "output": 2.0}}}))
    priced = run(*given, "--budget", "$5", QAWORKER_PRICES_FILE=str(prices), **env)
    assert priced.code == 0, priced.err
    with Ledger.open(tmp_path / "run") as ledger:
        assert ledger.budget_micros == 5_000_000


@pytest.mark.parametrize("amount", ["0", "0.0000009", "-1", "nan", "inf", "1e10", "five"])
def test_what_is_no_amount_is_a_mistake_on_the_command_line(
    run: Run, dataset: Path, nowhere: str, amount: str
) -> None:
    ran = run("generate", "--input-file", dataset, f"--budget={amount}", REDIS_URL=nowhere)
    assert ran.code == 2
    assert f"'{amount}' is no amount of dollars above 0" in ran.err


def test_a_budget_below_what_is_spent_is_refused_in_one_line(
    run: Run, env: dict[str, str], dataset: Path
) -> None:
    given = ("generate", "--input-file", dataset, "--output", "run")
    assert run(*given, **env).code == 0
    ran = run("collect", "run", "--budget", "0.000001", **env)
    assert ran.code == 78
    complaint = ran.err.splitlines()[-1]
    assert re.search(r"spent \$(\S+) already: give a --budget of \$\1 or more$", complaint)


def test_a_plan_and_the_run_agree_on_what_a_budget_pays_for(
    run: Run, env: dict[str, str], dataset: Path, redis_client: Redis
) -> None:
    given = ("--input-file", dataset, "--output", "run")

    def planned(budget: float) -> str:
        ran = run("plan", *given, "--budget", f"{budget:.6f}", **env)
        assert (ran.code, ran.err) == (0, "")
        return ran.out.splitlines()[-1]

    def generated(budget: float) -> int:
        return run("generate", *given, "--budget", f"{budget:.6f}", **env).code

    most = json.loads(run("plan", *given, "--json", **env).out)["most_dollars"]
    assert planned(most - 1e-6).endswith(
        "too little; the run will be held, and go on with a larger one"
    )
    assert generated(most - 1e-6) == 75
    (hold,) = holds(redis_client)
    assert re.fullmatch(r"\$0.0000 of (\$\S+) spent, and the next call may cost \1", hold.detail)
    assert planned(most).endswith(": all of it fits")
    assert generated(most) == 0

    spent = json.loads(run("plan", *given, "--json", **env).out)["spent_dollars"]
    assert 0 < spent < most
    assert planned(spent).endswith(" spent already): all of it fits")
    assert planned(spent - 1e-6).endswith(" spent already): refused, as it is less than that")
    assert generated(spent - 1e-6) == 78
