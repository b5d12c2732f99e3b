from __future__ import annotations

import json
from pathlib import Path

import pytest

from qaworker.settings import Settings
from tests.support.commands import Run

SECRETS = {
    "OPENAI_API_KEY": "sk-canary-0123456789",
    "REDIS_URL": "redis://user:canary@127.0.0.1:6379/0",
}


def test_every_setting_is_a_line_and_secrets_are_stars(run: Run) -> None:
    ran = run("config", QAWORKER_THREADS="7", **SECRETS)
    assert (ran.code, ran.err) == (0, "")
    shown = dict(line.split("=", 1) for line in ran.out.splitlines())
    assert shown.keys() == {str(f.validation_alias) for f in Settings.model_fields.values()}
    assert shown["QAWORKER_THREADS"] == "7"
    assert shown["OPENAI_API_KEY"] == "***"
    assert "canary" not in ran.out


@pytest.mark.parametrize("number", ["2000000", "0.5", "30"])
def test_a_number_is_shown_as_it_was_given(run: Run, number: str) -> None:
    assert run("config", "--get", "QAWORKER_TPM", QAWORKER_TPM=number).out == f"{number}\n"


def test_they_are_json_for_scripts(run: Run) -> None:
    ran = run("config", "--json", **SECRETS)
    assert json.loads(ran.out)["REDIS_URL"] == "redis://***@127.0.0.1:6379/0"


@pytest.mark.parametrize(
    "url",
    ["redis://h:6379/0?password=canary", "unix:///run/redis.sock?db=0&password=canary"],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_password_in_a_query_is_a_secret_too(run: Run, url: str, options: list[str]) -> None:
    ran = run("config", *options, REDIS_URL=url)
    assert ran.code == 0
    assert url.replace("canary", "***") in ran.out
    assert "canary" not in ran.out


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL", "OPENAI_BASE_URL"])
def test_an_address_nobody_encoded_is_one_line_without_its_password(
    run: Run, variable: str
) -> None:
    ran = run("config", **{variable: "redis://user:canary#x/y@host:6379/0"})
    assert (ran.code, ran.out) == (78, "")
    assert ran.complaint.startswith(f"qaworker: {variable}: is not an address")
    assert "canary" not in ran.err


def test_the_table_needs_no_valid_settings(run: Run) -> None:
    ran = run("config", "--markdown", QAWORKER_THREADS="many")
    assert (ran.code, ran.out) == (0, Settings.table() + "\n")


@pytest.mark.parametrize(
    ("env", "code"),
    [({}, 78), ({"OPENAI_API_KEY": "k"}, 0), ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, 0)],
)
def test_check_says_whether_a_worker_could_start(run: Run, env: dict[str, str], code: int) -> None:
    ran = run("config", "--check", **env)
    assert ran.code == code
    if code:
        assert "OPENAI_API_KEY is not set" in ran.complaint
        assert ran.out == ""


def test_each_wrong_setting_is_a_line(run: Run) -> None:
    ran = run("config", "--check", OPENAI_BASE_URL="localhost:8000", QAWORKER_EXPORTER_LISTEN="foo")
    assert (ran.code, ran.out) == (78, "")
    begins = ["qaworker: OPENAI_BASE_URL: must be ", "qaworker: QAWORKER_EXPORTER_LISTEN: must be "]
    for line, begin in zip(ran.err.splitlines(), begins, strict=True):
        assert line.startswith(begin)


def test_check_warns_of_names_that_mean_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("QAWORKER_TREADS=8\nQAWORKER_MODEL=m\n", encoding="utf-8")
    env = {"QAWORKER_ENV_FILE": str(tmp_path / "env"), "QAWORKER_INSTANCE": "/run/qaworker"}
    ran = run("config", "--check", OPENAI_API_KEY="k", QAWORKER_MODELL="m", **env)
    assert ran.code == 0
    assert [line.split()[1] for line in ran.err.splitlines()] == [
        "QAWORKER_MODELL",
        "QAWORKER_TREADS",
    ]


def test_a_wrong_value_is_one_line(run: Run) -> None:
    ran = run("config", QAWORKER_POOL="gevent")
    assert ran.code == 78
    assert ran.complaint.startswith("qaworker: QAWORKER_POOL: ")
