"""What the libraries raise, translated into our errors.

The code in the body decides before the status, as one status means several things: a 429 is
"wait" or "nobody has paid". No error of openai, httpx2 or aiohttp leaves this package: they break
when pickled, and they carry the request, which holds the key and the prompt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

import aiohttp
import httpx2
import openai

from qaworker.errors import (
    CallError,
    ChunkTooLarge,
    HaltError,
    ModelRefused,
    ProviderThrottled,
    ProviderUnavailable,
    RequestRefused,
)
from qaworker.llm.rate_headers import reported
from qaworker.logs import redact

# The transport passes some of aiohttp's errors and all timeouts (OSError) through as they are.
LIBRARY_ERRORS: Final = (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError)

_HALTING_CODES: Final = frozenset(
    {
        "account_deactivated",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "insufficient_quota",
        "invalid_api_key",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)
# The request has the same parameters for every chunk, so every call to the model would fail.
_PARAMETER_CODES: Final = frozenset(
    {"invalid_json_schema", "unknown_parameter", "unsupported_parameter", "unsupported_value"}
)
_TOO_LARGE_CODES: Final = frozenset(
    {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
)
_ACCOUNT_STATUSES: Final = frozenset({401, 402, 403})
# A redirect is left over when it leads nowhere; a wrong path takes no POST.
_ADDRESS_STATUSES: Final = frozenset({301, 302, 303, 304, 307, 308, 405})
# A gateway waited in vain for the one that answers, which may go on and charge.
_GATEWAY_TIMEOUTS: Final = frozenset({504, 524})
_PASSING_STATUSES: Final = frozenset({408, 409, 425})
# vLLM has no code for it; OpenAI sends the second as a 429 for a request above the whole TPM,
# which no waiting would cure.
_TOO_LARGE_MESSAGE: Final = re.compile(r"maximum context length|^Request too large", re.IGNORECASE)

_LONGEST_MESSAGE: Final = 300
_QUOTE: Final = 12  # this many characters of a private text in a message are no chance


def translate(error: Exception, model: str, private: Sequence[str] = ()) -> CallError:
    """Our error for one of ``LIBRARY_ERRORS``.

    Args:
        error: what the library raised.
        model: the model that was asked.
        private: texts no message may quote: the prompt's chunks and the key.
    """
    if isinstance(error, openai.APIStatusError):
        said = _quotable(_message(error), private)
        refused = _of_status(error, model, f": {said}" if said else "")
        refused.is_free = error.status_code not in _GATEWAY_TIMEOUTS
        return refused
    cause = error.__cause__ or error
    # aiohttp says so of every connection, those without TLS too.
    what = _quotable(str(cause).replace(" ssl:default", ""), private) or type(cause).__name__
    unanswered = ProviderUnavailable(_short(f"no answer from the API: {what}"))
    unanswered.is_free = _was_never_sent(error)
    return unanswered


def _was_never_sent(error: BaseException | None) -> bool:
    """Whether there was no connection to send it on.

    Only aiohttp's own error tells: the transport makes connect timeouts of connections that are lost.
    """
    never = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
    return error is not None and (isinstance(error, never) or _was_never_sent(error.__cause__))


def _of_status(error: openai.APIStatusError, model: str, said: str) -> CallError:
    status = error.status_code
    codes = {error.code, error.type}
    answer = f"the API answered {status}" + (f" ({error.code})" if error.code else "")
    account_refused = HaltError(
        _short(f"{answer}: check OPENAI_API_KEY, its quota and spend limits{said}")
    )
    if codes & _HALTING_CODES:
        return account_refused
    # What is not found may be the path; but then no model is, and each is held by itself.
    if "model_not_found" in codes or status == HTTPStatus.NOT_FOUND:
        return ModelRefused(
            _short(f"{answer}: check the model {model!r} and OPENAI_BASE_URL{said}")
        )
    if codes & _PARAMETER_CODES:
        return ModelRefused(_short(f"{answer}: model {model!r} refuses the parameters{said}"))
    # A model that the account may not use is a 403 with a code of its own, seen above.
    if status in _ACCOUNT_STATUSES:
        # The provider's own have a code; a firewall before it may refuse a text without one.
        account_refused.may_mean_text = status == HTTPStatus.FORBIDDEN and not error.code
        return account_refused
    if status in _ADDRESS_STATUSES:
        return HaltError(_short(f"{answer}: check OPENAI_BASE_URL{said}"))
    if codes & _TOO_LARGE_CODES or _TOO_LARGE_MESSAGE.search(_message(error)):
        return ChunkTooLarge(_short(f"{answer}: make chunks smaller with --max-tokens{said}"))
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        headers = error.response.headers
        return ProviderThrottled(
            _short(answer + said), retry_after_s=retry_after_s(headers), reported=reported(headers)
        )
    if status in _PASSING_STATUSES or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ProviderUnavailable(_short(answer + said))
    return RequestRefused(_short(answer + said))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the provider asks to wait; None where it does not say.

    A date is taken against the answer's own ``Date``, so that no clock needs to be right.
    """
    milliseconds = _seconds(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after", "")
    seconds = _seconds(value)
    if seconds is not None:
        return seconds
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError):  # no date, or one with and one without a time zone
        return None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if seconds >= 0 and math.isfinite(seconds) else None


def _message(error: openai.APIStatusError) -> str:
    """What the server says: ``{"error": {"message": …}}``, or ``{"error": …}`` of simpler ones."""
    body: Any = error.body
    message = body.get("message") if isinstance(body, dict) else body
    return message if isinstance(message, str) else ""


def _quotable(text: str, private: Sequence[str]) -> str:
    """``text`` as one redacted line; nothing when it repeats a private text.

    Servers that validate requests repeat the offending part, prompt and all; escaped characters
    could hide it.
    """
    line = redact(" ".join(text.split()))[:_LONGEST_MESSAGE]
    pieces = {line[start : start + _QUOTE] for start in range(max(1, len(line) - _QUOTE + 1))}
    if "\\u" in line or any(
        piece in whole
        for whole in map(_spaced, private)
        for piece in pieces
        if len(piece) == _QUOTE
    ):
        return ""
    return line


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _short(message: str) -> str:
    # Half a surrogate pair, as of a text that was cut, can be stored nowhere.
    return message.encode(errors="replace").decode()[:_LONGEST_MESSAGE]
