"""Requests and tokens a minute of each model: from a table, a file, the environment.

They are what the limiter begins with; what the provider reports with its answers corrects them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from qaworker.errors import ConfigError

Origin = Literal["table", "guess", "file", "environment", "provider", "none"]

PerMinute = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Limits(BaseModel):
    """One model in a limits file: each a number a minute, 0 for no limit, None for not said."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rpm: PerMinute | None = None
    tpm: PerMinute | None = None


_FILE: Final = TypeAdapter(dict[str, Limits])
DEFAULT: Final = "default"
"""In a limits file: all models that it does not name."""

# The lowest paid tier; who has a higher one is told by the first answer's headers.
# gpt-5-mini: what this program was always run with. Others: OpenAI's community forum, topic 1028595
# (gpt-4o, gpt-4o-mini), and scriptbyai.com/rate-limits-openai-api (gpt-5, o3), read 2026-11-22; the
# 4.1 family has the limits of the 4o family, gpt-5-nano those of the other small models.
_TABLE: Final[Mapping[str, tuple[float, float]]] = {
    "gpt-4.1": (500, 30_000),
    "gpt-4.1-mini": (500, 200_000),
    "gpt-4.1-nano": (500, 200_000),
    "gpt-4o": (500, 30_000),
    "gpt-4o-mini": (500, 200_000),
    "gpt-5": (500, 500_000),
    "gpt-5-mini": (3500, 200_000),
    "gpt-5-nano": (500, 200_000),
    "o3": (500, 30_000),
}
# Of a model of OpenAI's that the table does not name: the least of the above.
_UNKNOWN: Final = (500, 30_000)

_DATED: Final = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits of one model, a minute; 0 for none that is known."""

    rpm: float = 0
    tpm: float = 0
    rpm_from: Origin = "none"
    tpm_from: Origin = "none"


@dataclass(frozen=True, slots=True)
class RateTable:
    """The limits of every model at one provider; make one with :func:`rate_table`."""

    is_openai: bool = False
    """Other servers have no limits but those that somebody set."""
    from_file: Mapping[str, Limits] = field(default_factory=dict)
    rpm: float | None = None
    """For whichever model is asked; goes before the file, which goes before the table."""
    tpm: float | None = None

    def of(self, model: str) -> Rates:
        """The limits of a model; dated and fine-tuned ones have those of the model they are of."""
        base = _base(model)
        rates = Rates()
        if self.is_openai:
            rpm, tpm = _TABLE.get(base, _UNKNOWN)
            origin: Origin = "table" if base in _TABLE else "guess"
            rates = Rates(rpm, tpm, origin, origin)
        for name in (model, base, DEFAULT):
            if name in self.from_file:
                limits = self.from_file[name]
                rates = _replaced(rates, limits.rpm, limits.tpm, "file")
                break
        return _replaced(rates, self.rpm, self.tpm, "environment")


def rate_table(
    base_url: str, *, file: Path | None = None, rpm: float | None = None, tpm: float | None = None
) -> RateTable:
    """The limits at one provider.

    Args:
        base_url: its address; OpenAI's own has a table.
        file: JSON, ``{"gpt-5-mini": {"rpm": 3500, "tpm": 200000}, "default": {"rpm": 60}}``.
        rpm: requests a minute of whichever model is asked, 0 for no limit, None for not set.
        tpm: tokens, likewise.

    Raises:
        ConfigError: the file cannot be read or is not of that form.
    """
    host = urlsplit(base_url).hostname or ""
    is_openai = host == "api.openai.com" or host.endswith(".api.openai.com")
    return RateTable(is_openai, {} if file is None else _read(file), rpm, tpm)


def _read(file: Path) -> Mapping[str, Limits]:
    try:
        return _FILE.validate_python(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"QAWORKER_LIMITS_FILE: {file}: {error.strerror}: correct it") from error
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the whole"
        raise ConfigError(f"QAWORKER_LIMITS_FILE: {file}: {where}: {problem['msg']}") from error
    except ValueError as error:
        raise ConfigError(f"QAWORKER_LIMITS_FILE: {file}: is not JSON: {error}") from error


def _replaced(rates: Rates, rpm: float | None, tpm: float | None, origin: Origin) -> Rates:
    return Rates(
        rates.rpm if rpm is None else rpm,
        rates.tpm if tpm is None else tpm,
        rates.rpm_from if rpm is None else origin,
        rates.tpm_from if tpm is None else origin,
    )


def _base(model: str) -> str:
    """``openai/gpt-4o-mini-2024-07-18`` and ``ft:gpt-4o-mini-2024-07-18:org::id``: gpt-4o-mini."""
    name = model.removeprefix("openai/")
    if name.startswith("ft:"):
        name = name.split(":")[1]
    return _DATED.sub("", name)
