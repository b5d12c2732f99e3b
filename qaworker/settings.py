"""The settings of a process: the only module that reads the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError, field_validator, model_validator

from qaworker import env_file
from qaworker.errors import ConfigError, NotAllowed
from qaworker.logs import redact
from qaworker.variables import ENV_FILE, OPENAI_URL, Variables

# Owners and bin/quickstart.sh read these themselves, and the shell of whoever asks may have them.
_OF_OTHERS: Final = frozenset(
    f"QAWORKER_{name}"
    for name in (
        "INSTANCE",
        "REDIS_SERVER",
        "SIMULATOR",
        "SIMULATOR_PORT",
        "STOP_TIMEOUT_S",
        "WORKERS",
    )
)
# What an owner adds to the hard limit before it uses force: by then a worker has ended itself.
STOP_GRACE_S = 30.0
_LAST_PORT: Final = 65_535


def host_and_port(text: str) -> tuple[str, int]:
    """The parts of ``HOST:PORT``, where the host may be ``[::1]``; raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise ValueError("must be HOST:PORT, like 127.0.0.1:9808 or [::1]:9808")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Settings(Variables):
    """Everything that differs between installations."""

    @field_validator(
        "openai_api_key_file",
        "env_file",
        "prices_file",
        "rpm",
        "tpm",
        "limits_file",
        "exporter_cert_file",
        "exporter_key_file",
        "exporter_client_ca_file",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("redis_url", "broker_url", "openai_base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        try:
            _ = urlsplit(url).port
        except ValueError:
            # What the libraries say of it quotes a part of the password.
            raise ValueError(
                "is not an address: correct it, and write special characters of a password as %XX"
            ) from None
        return url

    @field_validator("redis_url", "broker_url")
    @classmethod
    def _is_of_a_redis(cls, url: str) -> str:
        if url and urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must begin with redis://, rediss:// or unix://")
        return url

    @field_validator("openai_base_url")
    @classmethod
    def _has_one_form(cls, url: str) -> str:
        """Without the slash at its end: it is compared, and it is recorded with every run."""
        parts = urlsplit(url.strip())
        if parts.username is not None:
            raise ValueError("must name no user and no password: put the key into OPENAI_API_KEY")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be like http://127.0.0.1:8000/v1")
        return url.strip().rstrip("/")

    @field_validator("exporter_listen")
    @classmethod
    def _is_listened_at(cls, text: str) -> str:
        host_and_port(text)
        return text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.task_soft_limit_s >= self.task_hard_limit_s:
            raise ValueError(
                "QAWORKER_TASK_SOFT_LIMIT_S must be less than QAWORKER_TASK_HARD_LIMIT_S"
            )
        return self

    @property
    def stop_timeout_s(self) -> float:
        """How long an owner waits for a worker that it told to end."""
        return self.task_hard_limit_s + STOP_GRACE_S

    def require_api_key(self) -> None:
        """Raise ConfigError when the provider needs a key and there is none."""
        if not self.openai_api_key.get_secret_value() and self.openai_base_url == OPENAI_URL:
            raise ConfigError(
                "OPENAI_API_KEY is not set: export it or name a file in OPENAI_API_KEY_FILE, or set"
                " OPENAI_BASE_URL to a server that needs no key"
            )

    def shown(self) -> dict[str, str]:
        """Every environment variable with its value, secrets as ``***``."""
        return {
            str(field.validation_alias): _shown(getattr(self, name))
            for name, field in type(self).model_fields.items()
        }

    @classmethod
    def table(cls) -> str:
        """The settings as a Markdown table, one line a variable."""
        lines = ["| variable | default | meaning |", "|---|---|---|"]
        for field in cls.model_fields.values():
            default = "" if field.default_factory else _shown(field.default)
            shown = f"`{default}`" if default else ""
            lines.append(f"| `{field.validation_alias}` | {shown} | {field.description} |")
        return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    if value is None:
        return ""
    # As many digits as a float has: no exponent, and no 0.1 + 0.2 either.
    return redact(f"{value:.15g}" if isinstance(value, float) else str(value))


def _read(path: Path, variable: str) -> str:
    """The text of a file that a variable names, or ConfigError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise ConfigError(f"{variable}: {path}: {reason}: correct it, or run as root") from error


def load() -> Settings:
    """The settings of this process.

    Raises:
        ConfigError: a variable has a value that is not allowed, or names a file that is not there.
        NotAllowed: this user may not read QAWORKER_ENV_FILE.
    """
    values, problem = load_as_far_as_possible()
    if problem is not None:
        raise problem
    return values


def load_as_far_as_possible() -> tuple[Settings, ConfigError | None]:
    """The settings, with the defaults for those that are wrong, and the first complaint.

    For what must work also then: to look at workers that run, and to stop them.

    Raises:
        NotAllowed: this user may not read QAWORKER_ENV_FILE.
    """
    filed, problem = _filed()
    defaults: dict[str, Any] = {}
    while True:
        try:
            values = Settings(**(filed | defaults))
            break
        except ValidationError as error:
            problem = problem or _complaint(error)
            defaults |= _defaults(error)
    key_file = values.openai_api_key_file
    if key_file is not None and not values.openai_api_key.get_secret_value():
        try:
            key = SecretStr(_read(key_file, "OPENAI_API_KEY_FILE").strip())
        except ConfigError as error:
            problem = problem or error
        else:
            values = values.model_copy(update={"openai_api_key": key})
    return values, problem


def _filed() -> tuple[dict[str, Any], ConfigError | None]:
    """What QAWORKER_ENV_FILE sets and the environment does not, and the first complaint."""
    path = os.environ.get(ENV_FILE)
    if not path:
        return {}, None
    try:
        text = _read(Path(path), ENV_FILE)
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError):
            # Its defaults would be about another installation.
            raise NotAllowed(
                f"{ENV_FILE}: {path} is not for everybody: run it as root, or as a member of the"
                " group qaworker"
            ) from error
        return {}, error
    values, complaints = env_file.parse(text)
    ours = {str(field.validation_alias) for field in Settings.model_fields.values()}
    ours -= {name.upper() for name in os.environ}
    problem = ConfigError(f"{ENV_FILE}: {path}: {complaints[0]}") if complaints else None
    return {name: value for name, value in values.items() if name in ours}, problem


def misspelt() -> list[str]:
    """Names in the environment and in QAWORKER_ENV_FILE that look like ours and mean nothing.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = os.environ.get(ENV_FILE)
    filed = env_file.parse(_read(Path(path), ENV_FILE))[0] if path else {}
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    return sorted(
        name
        for name in {*os.environ, *filed}
        if name.startswith("QAWORKER_") and name not in known | _OF_OTHERS
    )


def _complaint(error: ValidationError) -> ConfigError:
    """One line for each wrong value."""
    lines = []
    for each in error.errors(include_url=False):
        name = ".".join(str(part) for part in each["loc"])
        text = each["msg"].removeprefix("Value error, ")
        lines.append(f"{name}: {text}" if name else text)
    return ConfigError("\n".join(lines))


def _defaults(error: ValidationError) -> dict[str, Any]:
    """By variable, for those that are wrong; for the limits when they contradict each other."""
    wrong = {str(each["loc"][0]) for each in error.errors() if each["loc"]} or {
        "QAWORKER_TASK_SOFT_LIMIT_S",
        "QAWORKER_TASK_HARD_LIMIT_S",
    }
    return {
        variable: field.get_default(call_default_factory=True)
        for field in Settings.model_fields.values()
        if (variable := str(field.validation_alias)) in wrong
    }
