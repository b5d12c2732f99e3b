from __future__ import annotations

import errno
import traceback
from pathlib import Path

import pytest

from qaworker import heart, settings
from qaworker.errors import ConfigError, NotAllowed
from qaworker.settings import Settings, host_and_port
from qaworker.variables import OPENAI_URL

VALUES: dict[str, tuple[str, str, object]] = {
    "REDIS_URL": ("redis_url", "unix:///run/redis.sock", "unix:///run/redis.sock"),
    "CELERY_BROKER_URL": ("broker_url", "redis://queue:6379/1", "redis://queue:6379/1"),
    "OPENAI_BASE_URL": ("openai_base_url", "http://vllm:8000/v1", "http://vllm:8000/v1"),
    "QAWORKER_MODEL": ("model", "gpt-4o-mini", "gpt-4o-mini"),
    "QAWORKER_POOL": ("pool", "prefork", "prefork"),
    "QAWORKER_THREADS": ("threads", "32", 32),
    "QAWORKER_PREFORK_CHILDREN": ("prefork_children", "8", 8),
    "QAWORKER_CALLS_IN_FLIGHT": ("calls_in_flight", "64", 64),
    "QAWORKER_CALL_TIMEOUT_S": ("call_timeout_s", "2.5", 2.5),
    "QAWORKER_TASK_SOFT_LIMIT_S": ("task_soft_limit_s", "10", 10.0),
    "QAWORKER_TASK_HARD_LIMIT_S": ("task_hard_limit_s", "600", 600.0),
    "QAWORKER_READY_TASKS": ("ready_tasks", "8", 8),
    "QAWORKER_OUTCOME_DAYS": ("outcome_days", "7", 7),
    "QAWORKER_MAX_CHUNKS": ("max_chunks", "10", 10),
    "QAWORKER_MAX_MEMORY_MB": ("max_memory_mb", "256", 256),
    "QAWORKER_RUNTIME_DIR": ("runtime_dir", "/srv/run", Path("/srv/run")),
    "QAWORKER_LOG_DIR": ("log_dir", "/srv/log", Path("/srv/log")),
    "QAWORKER_DATA_DIR": ("data_dir", "/srv/資料", Path("/srv/資料")),
    "QAWORKER_RUNS_DIR": ("runs_dir", "/srv/runs", Path("/srv/runs")),
    "QAWORKER_RPM": ("rpm", "3500", 3500.0),
    "QAWORKER_TPM": ("tpm", "0", 0.0),
    "QAWORKER_LIMITS_FILE": ("limits_file", "/srv/limits.json", Path("/srv/limits.json")),
    "QAWORKER_PRICES_FILE": ("prices_file", "/srv/prices.json", Path("/srv/prices.json")),
    "QAWORKER_CONFIRM_USD": ("confirm_usd", "2.5", 2.5),
    "QAWORKER_EXPORTER_LISTEN": ("exporter_listen", "[::]:9808", "[::]:9808"),
    "QAWORKER_EXPORTER_CERT_FILE": ("exporter_cert_file", "/srv/cert", Path("/srv/cert")),
    "QAWORKER_EXPORTER_KEY_FILE": ("exporter_key_file", "/srv/key", Path("/srv/key")),
    "QAWORKER_EXPORTER_CLIENT_CA_FILE": ("exporter_client_ca_file", "/srv/ca", Path("/srv/ca")),
    "QAWORKER_LOG_LEVEL": ("log_level", "debug", "debug"),
    "QAWORKER_LOG_FORMAT": ("log_format", "json", "json"),
}

WRONG = [
    ("REDIS_URL", "localhost:6379"),
    ("CELERY_BROKER_URL", "amqp://localhost"),
    ("OPENAI_BASE_URL", "localhost:8000"),
    ("OPENAI_BASE_URL", "http:///v1"),
    ("QAWORKER_EXPORTER_LISTEN", "foo"),
    ("QAWORKER_EXPORTER_LISTEN", ":9808"),
    ("QAWORKER_EXPORTER_LISTEN", "127.0.0.1:70000"),
    ("QAWORKER_MODEL", ""),
    ("QAWORKER_POOL", "gevent"),
    ("QAWORKER_THREADS", "0"),
    ("QAWORKER_THREADS", "1025"),
    ("QAWORKER_THREADS", "many"),
    ("QAWORKER_THREADS", ""),
    ("QAWORKER_PREFORK_CHILDREN", "0"),
    ("QAWORKER_CALLS_IN_FLIGHT", "-1"),
    ("QAWORKER_CALL_TIMEOUT_S", "0"),
    ("QAWORKER_TASK_SOFT_LIMIT_S", "soon"),
    ("QAWORKER_TASK_SOFT_LIMIT_S", "300"),
    ("QAWORKER_TASK_HARD_LIMIT_S", "0"),
    ("QAWORKER_READY_TASKS", "0"),
    ("QAWORKER_OUTCOME_DAYS", "0"),
    ("QAWORKER_RPM", "-1"),
    ("QAWORKER_TPM", "inf"),
    ("QAWORKER_MAX_CHUNKS", "0"),
    ("QAWORKER_MAX_MEMORY_MB", "1"),
    ("QAWORKER_LOG_LEVEL", "verbose"),
    ("QAWORKER_LOG_FORMAT", "xml"),
]


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


def test_every_variable_is_shown_here() -> None:
    aliases = {str(field.validation_alias) for field in Settings.model_fields.values()}
    files = {"OPENAI_API_KEY_FILE", "QAWORKER_ENV_FILE"}
    assert aliases == {*VALUES, "OPENAI_API_KEY", *files}


@pytest.mark.parametrize("variable", VALUES)
def test_a_variable_sets_its_field(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, text, value = VALUES[variable]
    assert getattr(settings.load(), name) != value
    monkeypatch.setenv(variable, text)
    assert getattr(settings.load(), name) == value
    assert settings.load().shown()[variable] == text


@pytest.mark.parametrize(("variable", "text"), WRONG)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=variable) as caught:
        settings.load()
    assert "\n" not in str(caught.value)


def test_each_wrong_value_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAWORKER_THREADS", "many")
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000")
    with pytest.raises(ConfigError) as caught:
        settings.load()
    named = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert sorted(named) == ["OPENAI_BASE_URL", "QAWORKER_THREADS"]


def test_an_unknown_variable_is_of_no_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAWORKER_SOMETHING_ELSE", "1")
    settings.load()


@pytest.mark.parametrize(
    ("key", "base_url", "is_enough"),
    [
        ("", OPENAI_URL, False),
        ("sk-canary-0123456789", OPENAI_URL, True),
        ("", f"{OPENAI_URL}/", False),
        ("", "http://127.0.0.1:8000/v1", True),
    ],
)
def test_a_key_is_required_by_openai_alone(key: str, base_url: str, is_enough: bool) -> None:
    values = Settings(openai_api_key=key, openai_base_url=base_url)
    if is_enough:
        values.require_api_key()
    else:
        with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set: export it"):
            values.require_api_key()


def test_the_key_may_be_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("from-a-file\n", encoding="utf-8")
    monkeypatch.setenv("OPENAI_API_KEY_FILE", str(file))
    assert settings.load().openai_api_key.get_secret_value() == "from-a-file"
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    assert settings.load().openai_api_key.get_secret_value() == "from-the-environment"
    monkeypatch.setenv("OPENAI_API_KEY_FILE", "")
    assert settings.load().openai_api_key_file is None


def test_the_environment_goes_before_the_file_of_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "env"
    text = "# 設定\nQAWORKER_MODEL=from-the-file\nQAWORKER_THREADS=7\nOTHER=1\n"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("QAWORKER_ENV_FILE", str(file))
    monkeypatch.setenv("QAWORKER_MODEL", "from-the-environment")
    values = settings.load()
    assert (values.model, values.threads) == ("from-the-environment", 7)


def test_a_line_that_others_read_differently_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "env"
    file.write_text("QAWORKER_THREADS=7\nQAWORKER_MODEL=canary # cheap\n", encoding="utf-8")
    monkeypatch.setenv("QAWORKER_ENV_FILE", str(file))
    with pytest.raises(ConfigError, match=r"env: line 2: QAWORKER_MODEL: ") as caught:
        settings.load()
    assert "canary" not in str(caught.value)
    values, _ = settings.load_as_far_as_possible()
    assert values.threads == 7


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY_FILE", "QAWORKER_ENV_FILE"])
def test_a_file_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "missing"))
    with pytest.raises(ConfigError, match=rf"{variable}: .*missing: No such file") as caught:
        settings.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "text"), [*WRONG, ("REDIS_URL", "redis://user:[x"), ("OPENAI_API_KEY_FILE", "no")]
)
def test_a_wrong_value_leaves_the_others_usable(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QAWORKER_RUNTIME_DIR", "/srv/run")
    monkeypatch.setenv(variable, text)
    values, problem = settings.load_as_far_as_possible()
    assert variable in str(problem)
    assert values.runtime_dir == Path("/srv/run")
    assert values.stop_timeout_s == 330
    assert values.redis_url == Settings.model_fields["redis_url"].default


def test_without_its_file_the_environment_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QAWORKER_ENV_FILE", "/srv/missing")
    monkeypatch.setenv("QAWORKER_THREADS", "7")
    values, problem = settings.load_as_far_as_possible()
    assert "/srv/missing" in str(problem)
    assert values.threads == 7


def test_right_values_are_no_problem() -> None:
    assert settings.load_as_far_as_possible() == (settings.load(), None)


def test_settings_that_are_not_for_this_user_take_rights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Root may read every file.
    monkeypatch.setattr(Path, "read_text", refuse)
    monkeypatch.setenv("QAWORKER_ENV_FILE", str(tmp_path))
    for load in (settings.load, settings.load_as_far_as_possible):
        with pytest.raises(NotAllowed, match="as root, or as a member of the group qaworker"):
            load()


def test_owners_wait_longer_than_a_worker_takes() -> None:
    values = Settings(task_soft_limit_s=540, task_hard_limit_s=600)
    assert values.stop_timeout_s == 630
    assert values.stop_timeout_s > 600 + heart.DRAIN_GRACE_S + heart.END_GRACE_S


def test_secrets_are_shown_as_stars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-of-no-known-shape")
    monkeypatch.setenv("REDIS_URL", "redis://user:canary@host:6379/0")
    monkeypatch.setenv("CELERY_BROKER_URL", "rediss://:canary@host:6379/0")
    values = settings.load()
    assert "canary-of-no-known-shape" not in repr(values)
    shown = values.shown()
    assert shown["OPENAI_API_KEY"] == "***"
    assert shown["REDIS_URL"] == "redis://***@host:6379/0"
    assert shown["CELERY_BROKER_URL"] == "rediss://***@host:6379/0"


def test_a_password_in_a_query_is_shown_as_stars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://host:6379/0?password=canary")
    monkeypatch.setenv("CELERY_BROKER_URL", "unix:///run/redis.sock?db=1&password=canary")
    shown = settings.load().shown()
    assert shown["REDIS_URL"] == "redis://host:6379/0?password=***"
    assert shown["CELERY_BROKER_URL"] == "unix:///run/redis.sock?db=1&password=***"


@pytest.mark.parametrize("variable", ["REDIS_URL", "CELERY_BROKER_URL", "OPENAI_BASE_URL"])
@pytest.mark.parametrize("rest", ["canary#x/y@host:6379/0", "canary/x@host", "[canary@host"])
def test_an_address_that_is_none_is_refused_and_not_shown(
    variable: str, rest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f"redis://user:{rest}")
    with pytest.raises(ConfigError, match=f"^{variable}: is not an address") as caught:
        settings.load()
    shown = "".join(traceback.format_exception(caught.value))
    assert "canary" not in shown.replace(__file__, "")


@pytest.mark.parametrize("user", ["canary", "user:canary", ":canary"])
def test_the_address_of_the_api_names_no_user(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{user}@host/v1")
    with pytest.raises(ConfigError, match=r"^OPENAI_BASE_URL: .*OPENAI_API_KEY") as caught:
        settings.load()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("end", ["/", "//", "/ "])
def test_the_address_of_the_api_has_one_form(end: str) -> None:
    assert Settings(openai_base_url=OPENAI_URL + end).openai_base_url == OPENAI_URL


def test_a_missing_key_is_shown_as_missing() -> None:
    assert settings.load().shown()["OPENAI_API_KEY"] == ""


def test_the_table_has_a_line_for_every_variable() -> None:
    lines = Settings.table().splitlines()
    assert lines[:2] == ["| variable | default | meaning |", "|---|---|---|"]
    assert len(lines) == 2 + len(Settings.model_fields)
    assert "| `QAWORKER_THREADS` | `64` |" in Settings.table()
    assert all(line.count("|") == 4 and not line.endswith("|  |") for line in lines)


def test_settings_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        settings.load().threads = 1  # type: ignore[misc]  # what is shown


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9808", ("127.0.0.1", 9808)), ("[::1]:0", ("::1", 0)), ("host:1", ("host", 1))],
)
def test_an_address(text: str, address: tuple[str, int]) -> None:
    assert host_and_port(text) == address


@pytest.mark.parametrize("text", ["", "9808", ":9808", "host", "host:", "host:http", "host:70000"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        host_and_port(text)
