"""The environment variables that differ between installations, each with its default and its meaning.

A field's ``validation_alias`` is its variable and its ``description`` the line in the README's
table, which is generated from here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from qaworker.logs import LogFormat

ENV_FILE: Final = "QAWORKER_ENV_FILE"
OPENAI_URL: Final = "https://api.openai.com/v1"


def _first_writable(installed: str, here: str) -> Path:
    """The directory that an installation made, where this user may write it, else one here."""
    return Path(installed if os.access(installed, os.W_OK | os.X_OK) else here)


class Variables(BaseSettings):
    """Their values; :class:`qaworker.settings.Settings` says which are allowed."""

    model_config = SettingsConfigDict(
        frozen=True, populate_by_name=True, extra="ignore", hide_input_in_errors=True
    )

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias="REDIS_URL",
        description="Redis for outcomes, heartbeats and the queue; `unix:///path` for a socket",
    )
    broker_url: str = Field(
        "",
        validation_alias="CELERY_BROKER_URL",
        description="Redis for the queue alone, when it is another one; default: `REDIS_URL`",
    )
    openai_api_key: SecretStr = Field(
        SecretStr(""),
        validation_alias="OPENAI_API_KEY",
        description="the key; required with OpenAI's own address",
    )
    openai_api_key_file: Path | None = Field(
        None,
        validation_alias="OPENAI_API_KEY_FILE",
        description="a file with the key, read when `OPENAI_API_KEY` is empty",
    )
    openai_base_url: str = Field(
        OPENAI_URL,
        validation_alias="OPENAI_BASE_URL",
        description="any server with `/chat/completions` (OpenAI, vLLM, llama.cpp, Ollama)",
    )
    model: Annotated[str, Field(min_length=1)] = Field(
        "gpt-5-mini", validation_alias="QAWORKER_MODEL", description="the model to ask"
    )
    pool: Literal["threads", "prefork"] = Field(
        "threads",
        validation_alias="QAWORKER_POOL",
        description="Celery's pool: `threads`, or `prefork`",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] = Field(
        64,
        validation_alias="QAWORKER_THREADS",
        description="tasks one thread process holds; with 16 chunks each they exceed the calls",
    )
    prefork_children: Annotated[int, Field(ge=1, le=256)] = Field(
        4,
        validation_alias="QAWORKER_PREFORK_CHILDREN",
        description="children of one prefork process",
    )
    calls_in_flight: Annotated[int, Field(ge=1, le=10_000)] = Field(
        512,
        validation_alias="QAWORKER_CALLS_IN_FLIGHT",
        description="calls at the same time per process",
    )
    call_timeout_s: Annotated[float, Field(gt=0)] = Field(
        100.0, validation_alias="QAWORKER_CALL_TIMEOUT_S", description="seconds for one call"
    )
    task_soft_limit_s: Annotated[float, Field(gt=0)] = Field(
        270.0,
        validation_alias="QAWORKER_TASK_SOFT_LIMIT_S",
        description="seconds after which a task hands unfinished chunks back to the queue",
    )
    task_hard_limit_s: Annotated[float, Field(gt=0)] = Field(
        300.0,
        validation_alias="QAWORKER_TASK_HARD_LIMIT_S",
        description="seconds after which a task's calls are cancelled",
    )
    ready_tasks: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64,
        validation_alias="QAWORKER_READY_TASKS",
        description="tasks `generate` keeps waiting in the queue",
    )
    outcome_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        30,
        validation_alias="QAWORKER_OUTCOME_DAYS",
        description="days an outcome is kept in Redis (the run's ledger keeps it for good)",
    )
    max_chunks: Annotated[int, Field(ge=1)] = Field(
        100_000,
        validation_alias="QAWORKER_MAX_CHUNKS",
        description="chunks after which a worker process drains and is replaced",
    )
    max_memory_mb: Annotated[int, Field(ge=64)] = Field(
        1024,
        validation_alias="QAWORKER_MAX_MEMORY_MB",
        description="resident MiB beyond which a worker process drains and is replaced",
    )
    runtime_dir: Path = Field(
        default_factory=lambda: _first_writable("/run/qaworker", "var/run"),
        validation_alias="QAWORKER_RUNTIME_DIR",
        description="PID files, sockets and locks; default: `/run/qaworker` where that can be"
        " written, else `var/run`",
    )
    log_dir: Path = Field(
        default_factory=lambda: _first_writable("/var/log/qaworker", "var/log"),
        validation_alias="QAWORKER_LOG_DIR",
        description="logs of workers without systemd; default: `/var/log/qaworker` where that can"
        " be written, else `var/log`",
    )
    env_file: Path | None = Field(
        None,
        validation_alias=ENV_FILE,
        description="a file of `NAME=value` lines with any of these; the environment goes before it",
    )
    data_dir: Path = Field(
        Path("data"),
        validation_alias="QAWORKER_DATA_DIR",
        description="where `--dataset NAME` looks for `preprocessed_NAME.csv`",
    )
    runs_dir: Path = Field(
        Path("var/runs"),
        validation_alias="QAWORKER_RUNS_DIR",
        description="where run directories are made unless `--output` names one",
    )
    rpm: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None,
        validation_alias="QAWORKER_RPM",
        description="requests a minute that all workers together make to a model at most, 0 for no"
        " limit; default: QAWORKER_LIMITS_FILE, else OpenAI's lowest tier; what the API reports"
        " corrects it",
    )
    tpm: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None,
        validation_alias="QAWORKER_TPM",
        description="tokens a minute, likewise",
    )
    limits_file: Path | None = Field(
        None,
        validation_alias="QAWORKER_LIMITS_FILE",
        description='JSON with limits of models: `{"NAME": {"rpm": 500, "tpm": 200000}, "default":'
        ' {"rpm": 60}}`',
    )
    prices_file: Path | None = Field(
        None,
        validation_alias="QAWORKER_PRICES_FILE",
        description="JSON with prices to add or to correct, in dollars per million tokens:"
        ' `{"models": {"NAME": {"input": 0.25, "cached_input": 0.025, "output": 2}}}`',
    )
    confirm_usd: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        10.0,
        validation_alias="QAWORKER_CONFIRM_USD",
        description="dollars beyond which `generate` and `submit` ask in a terminal before they"
        " send, unless `--yes` or `--budget` is given",
    )
    exporter_listen: str = Field(
        "127.0.0.1:9808",
        validation_alias="QAWORKER_EXPORTER_LISTEN",
        description="where `qaworker exporter` serves metrics",
    )
    exporter_cert_file: Path | None = Field(
        None,
        validation_alias="QAWORKER_EXPORTER_CERT_FILE",
        description="its certificate (PEM), with which it serves by TLS; restart it after a renewal",
    )
    exporter_key_file: Path | None = Field(
        None,
        validation_alias="QAWORKER_EXPORTER_KEY_FILE",
        description="the certificate's key (PEM)",
    )
    exporter_client_ca_file: Path | None = Field(
        None,
        validation_alias="QAWORKER_EXPORTER_CLIENT_CA_FILE",
        description="certificates (PEM) of those who vouch for clients: then others get nothing",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias="QAWORKER_LOG_LEVEL", description="least level that is logged"
    )
    log_format: LogFormat = Field(
        "auto",
        validation_alias="QAWORKER_LOG_FORMAT",
        description="`json`, `console`, or `auto`: console in a terminal",
    )
