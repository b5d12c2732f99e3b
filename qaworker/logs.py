"""Logging: JSON lines in production, a console in a terminal; never a prompt, never a key."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Literal, TextIO

import structlog

LogFormat = Literal["auto", "json", "console"]

# What stands for a user in the query of a Redis URL. It is looked for first: an @ in it would
# seem to end the user and password before the host.
_QUERY_SECRETS = re.compile(r"(?<=[?&_]password=)[^&\s]+|(?<=[?&]username=)[^&\s]+")
# What keys of OpenAI and its likes look like, and what stands before the host in a URL, up to the
# last @: in a password that nobody encoded there may be anything.
_SECRETS = re.compile(r"\b(?:sk|pk|Bearer)[-_ ][A-Za-z0-9_\-.]{8,}|(?<=://)\S+(?=@)")


def redact(text: str) -> str:
    """``text`` with everything that looks like a key or a password replaced by ``***``."""
    return _SECRETS.sub("***", _QUERY_SECRETS.sub("***", text))


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {name: _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_redacted(inner) for inner in value]
    return redact(repr(value))


def _redact_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    # What Celery adds to its records: the task's arguments among it.
    event.pop("data", None)
    return {name: _redacted(value) for name, value in event.items()}


def configure(
    level: str = "info", log_format: LogFormat = "auto", file: Path | TextIO | None = None
) -> None:
    """Send every logger of this process, ours and the libraries', to standard error or a file.

    A file by its path, once renamed as logrotate does, is left with the next line: no signal is needed.
    """
    is_terminal = file is None and sys.stderr.isatty()
    as_console = log_format == "console" or (log_format == "auto" and is_terminal)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    rendering: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _redact_event,
        structlog.dev.ConsoleRenderer()
        if as_console
        else structlog.processors.JSONRenderer(ensure_ascii=False),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
    )
    handler = (
        WatchedFileHandler(file, encoding="utf-8")
        if isinstance(file, Path)
        else logging.StreamHandler(file or sys.stderr)
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Python prints warnings past every handler: a line of the log that is no JSON.
    logging.captureWarnings(capture=True)
    # These log every request or connection at INFO.
    for chatty in ("httpx", "httpx2", "openai", "aiohttp.access", "kombu", "urllib3"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def get(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one module; ``log.info("event_name", field=value)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
