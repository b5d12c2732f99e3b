"""What tokens cost: the table of ``prices.json``, with what an installation adds or corrects."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from qaworker.errors import ConfigError
from qaworker.models import Usage, Value

# A router's name for OpenAI itself; other makers and sellers have prices of their own.
_OWN_PREFIX = "openai/"
_DATE = re.compile(r"-\d{4}-\d{2}-\d{2}$")

MICROS = 1_000_000
"""Of a dollar."""

_Dollars = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class Price(Value):
    """Dollars per million tokens, which is micro-dollars per token."""

    input: _Dollars
    cached_input: _Dollars = Field(default_factory=lambda given: given["input"])
    """Of input tokens read from the provider's cache."""
    cache_write: _Dollars = Field(default_factory=lambda given: given["input"])
    """Of input tokens that fill the cache."""
    output: _Dollars
    """Reasoning tokens are output."""
    source: str = ""
    """Where it was read, as a key of the file's ``sources``."""

    @property
    def fresh_input(self) -> Decimal:
        """Of an input token not read from the cache: usage does not tell which of them filled it."""
        return max(self.input, self.cache_write)


class _Table(Value):
    """A file of prices."""

    models: dict[str, Price]
    read_on: str = ""
    note: str = ""
    sources: dict[str, str] = Field(default_factory=dict)


def price_of(model: str, own_file: Path | None = None) -> Price | None:
    """The standard price of ``model``; None when nobody knows it.

    A name counts as it is, or without its date. A fine-tuned model (``ft:gpt-4o-mini-…:org::id``) is
    looked up as ``ft:gpt-4o-mini``, as it costs more than the model it was made from.

    Args:
        model: as it is sent, perhaps with the prefix ``openai/``.
        own_file: of the same form as ``prices.json``; its models go before those.

    Raises:
        ConfigError: ``own_file`` cannot be read, or is not of that form.
    """
    prices = _prices(own_file)
    if (price := prices.get(model)) is not None:
        return price
    name = model.removeprefix(_OWN_PREFIX)
    if name.startswith("ft:"):
        name = ":".join(name.split(":")[:2])
    return prices.get(name) or prices.get(_DATE.sub("", name))


def require_price(model: str, own_file: Path | None = None) -> Price:
    """The price of ``model``, for those who promise something in dollars.

    Raises:
        ConfigError: there is none: the message says where to put it.
    """
    price = price_of(model, own_file)
    if price is None:
        raise ConfigError(unknown_price(model, own_file))
    return price


def unknown_price(model: str, own_file: Path | None = None) -> str:
    """Says in one line that a model has no price, and where to put it."""
    where = f"add it to {own_file}" if own_file else "name a file in QAWORKER_PRICES_FILE"
    example = json.dumps({"models": {model: {"input": 0.25, "output": 2.0}}}, ensure_ascii=False)
    return f"the price of {model} is not known: {where}, in dollars per million tokens: {example}"


def cost_micros(usage: Usage, price: Price) -> int:
    """What ``usage`` costs in micro-dollars, rounded up."""
    cached = min(usage.cached, usage.input)
    return math.ceil(
        (usage.input - cached) * price.fresh_input
        + cached * price.cached_input
        + usage.output * price.output
    )


def most_micros(input_tokens: int, output_cap: int, price: Price) -> int:
    """What a call costs at most, in micro-dollars: nothing cached, and an answer as long as allowed."""
    dearest = max(price.fresh_input, price.cached_input)
    return math.ceil(input_tokens * dearest + output_cap * price.output)


def dollars(micros: int) -> str:
    """Micro-dollars for a person, rounded up: to cents, and small sums to hundredths of a cent."""
    places = 2 if micros >= MICROS else 4
    unit = MICROS // 10**places
    return f"${math.ceil(micros / unit) * unit / MICROS:,.{places}f}"


def _prices(own_file: Path | None) -> dict[str, Price]:
    return _shipped() if own_file is None else _shipped() | _own(own_file, _changed_at(own_file))


@cache
def _shipped() -> dict[str, Price]:
    shipped = resources.files(__package__).joinpath("prices.json").read_text(encoding="utf-8")
    return _Table.model_validate_json(shipped).models


def _changed_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # reading it says why
        return 0


# Processes that run for weeks take a price that is added.
@lru_cache(maxsize=1)
def _own(path: Path, _changed_at: int) -> dict[str, Price]:
    return _read(path).models


def _read(path: Path) -> _Table:
    try:
        return _Table.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        raise ConfigError(f"QAWORKER_PRICES_FILE: {path}: {reason}: correct it") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}: {first['msg']}" if where else first["msg"]
        raise ConfigError(f"QAWORKER_PRICES_FILE: {path}: {message}") from error
