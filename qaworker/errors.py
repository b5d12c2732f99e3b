"""Every error qaworker raises, and the exit codes of its commands.

The branch of the tree decides what becomes of a chunk::

    QAWorkerError
    ├─ ConfigError              refuse to start (exit 78)
    ├─ InputError               the dataset cannot be read (exit 65)
    ├─ RunDirectoryError        the run directory is in use, full or not writable (exit 75)
    ├─ RunCancelled             somebody cancelled the run (exit 75)
    ├─ RunHeld                  nobody is to call for the run (exit 75)
    ├─ OwnerError               what owns the workers could not do what it was told (exit 1)
    │   ├─ NotAllowed             it wants more rights (exit 77)
    │   └─ Busy                   somebody else is starting or stopping them (exit 75)
    ├─ TransientError           try the chunk again
    │   ├─ ProviderThrottled      the provider said 429: costs no attempt
    │   ├─ ProviderUnavailable    5xx, timeout, connection error
    │   ├─ AnswerTruncated        once more with a larger output cap
    │   ├─ AnswerInvalid          one repair attempt
    │   └─ StoreUnavailable       Redis is away (exit 75): costs no attempt
    ├─ PermanentError           this chunk is dead
    │   ├─ RequestRefused         content filter, refusal, 4xx
    │   ├─ ChunkTooLarge          the prompt exceeds the model's context
    │   ├─ WorkerDied             a worker died each time it was asked
    │   ├─ MessageInvalid         not a chunk, or not a configuration
    │   └─ InternalFault          a defect of qaworker's own
    └─ HaltError                the account is broken: every call would fail
        ├─ ProviderDown           so they do for now
        └─ ModelRefused           so would every call to this model

No exception of openai, redis or pydantic leaves the module that calls the library.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from qaworker.models import Usage

Reported = tuple[float | None, float | None]
"""Limits that the provider says are in force: requests and tokens a minute."""


class ExitCode(IntEnum):
    """What a command's exit status means; the values follow ``sysexits.h`` where it has one."""

    OK = 0
    FAILED = 1
    """A check failed, or a run is complete with dead chunks."""
    USAGE = 2
    INPUT = 65
    UNAVAILABLE = 69
    """The API refuses or does not answer."""
    TRY_AGAIN = 75
    """Redis is away, or the run is not complete: the same command goes on."""
    NOT_ALLOWED = 77
    CONFIG = 78
    HUNG_UP = 129
    """The terminal was closed; like the next two, 128 and the number of the signal."""
    INTERRUPTED = 130
    TERMINATED = 143


class QAWorkerError(Exception):
    """Something in qaworker failed."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str | None = None) -> None:
        self.message = message or (type(self).__doc__ or "").strip().splitlines()[0]
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message


class ConfigError(QAWorkerError):
    """A setting is missing or wrong: correct it and start again."""

    exit_code = ExitCode.CONFIG


class InputError(QAWorkerError):
    """The dataset cannot be read: correct the file, or leave bad rows out with --skip-bad-rows."""

    exit_code = ExitCode.INPUT


class RunDirectoryError(QAWorkerError):
    """The run directory is in use, full or not writable: the same command goes on afterwards."""

    exit_code = ExitCode.TRY_AGAIN


class RunCancelled(QAWorkerError):
    """The run was cancelled: the same command goes on."""

    exit_code = ExitCode.TRY_AGAIN


class RunHeld(QAWorkerError):
    """The run is held, as its budget is spent or an operator wants it: the same command goes on."""

    exit_code = ExitCode.TRY_AGAIN


class OwnerError(QAWorkerError):
    """The owner of the workers could not do what it was told: see its own log."""


class NotAllowed(OwnerError):
    """The owner of the workers wants more rights: run the command as root."""

    exit_code = ExitCode.NOT_ALLOWED


class Busy(OwnerError):
    """The workers are being started or stopped already: wait for that."""

    exit_code = ExitCode.TRY_AGAIN


class CallError(QAWorkerError):
    """A call to the provider gave no usable answer.

    ``usage`` is what the provider charged for the call, where it said so; ``is_free``, whether it
    surely charged nothing, as it refused the call or never had it.
    """

    reason = "call_failed"
    is_free = False

    def __init__(self, message: str | None = None, *, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.__dict__.copy())


def _rebuild(kind: type[QAWorkerError], message: str, state: dict[str, Any]) -> QAWorkerError:
    error = kind(message)
    error.__dict__.update(state)
    return error


class TransientError(CallError):
    """The call failed and may succeed when it is tried again."""

    reason = "transient"


class ProviderThrottled(TransientError):
    """The provider's rate limit is reached: it says for how long to wait, and what the limit is."""

    reason = "throttled"
    is_free = True

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_s: float | None = None,
        reported: Reported = (None, None),
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message, usage=usage)
        self.retry_after_s = retry_after_s
        self.reported = reported


class ProviderUnavailable(TransientError):
    """The provider failed, did not answer in time, or could not be reached."""

    reason = "unavailable"


class AnswerTruncated(TransientError):
    """The answer reached the output cap before it was complete."""

    reason = "truncated"


class AnswerInvalid(TransientError):
    """The answer is not the JSON that was asked for."""

    reason = "invalid"


class StoreUnavailable(TransientError):
    """Redis does not answer: start it, or correct REDIS_URL."""

    reason = "store_unavailable"
    exit_code = ExitCode.TRY_AGAIN


class PermanentError(CallError):
    """The chunk cannot succeed: trying again would not help."""

    reason = "permanent"


class RequestRefused(PermanentError):
    """The provider refuses this chunk (content filter, refusal or an invalid request)."""

    reason = "refused"


class ChunkTooLarge(PermanentError):
    """The chunk exceeds the model's context: make chunks smaller with --max-tokens."""

    reason = "too_large"


class WorkerDied(PermanentError):
    """Workers died again and again while they asked for this chunk: see their log and the system's."""

    reason = "worker_died"


class MessageInvalid(PermanentError):
    """The message is not a list of chunks with a configuration."""

    reason = "message_invalid"


class InternalFault(PermanentError):
    """qaworker itself failed on this chunk: the log has the traceback."""

    reason = "internal"


class HaltError(CallError):
    """The account cannot be used (key, quota or spend limit): every call would fail.

    ``may_mean_text``: the answer does not say whether it means the account, or this text alone.
    """

    reason = "halted"
    may_mean_text = False
    is_free = True
    exit_code = ExitCode.UNAVAILABLE


class ProviderDown(HaltError):
    """The provider is not available: half of the last calls failed, or all of the last chunk's."""

    reason = "provider_down"


class ModelRefused(HaltError):
    """The model cannot be used (its name or its parameters): every call to it would fail.

    ``run_id``: the run that asked for it.
    """

    reason = "model_refused"
    run_id = ""
