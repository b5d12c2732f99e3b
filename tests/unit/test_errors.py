from __future__ import annotations

import inspect
import pickle

import pytest

from qaworker import errors
from qaworker.errors import CallError, ExitCode, ProviderThrottled, QAWorkerError
from qaworker.models import Usage

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, QAWorkerError)
]
CALL_KINDS = [kind for kind in KINDS if issubclass(kind, CallError)]
MESSAGES = ["the API answered 503", "灯台は十一年の工事を経て完成した"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("message", MESSAGES)
def test_every_error_survives_the_way_between_processes(
    kind: type[QAWorkerError], message: str
) -> None:
    error = kind(message)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == again.message == message
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", CALL_KINDS)
def test_what_a_failed_call_cost_survives_too(kind: type[CallError]) -> None:
    error = kind("x", usage=Usage(input=7, output=2, cached=1, reasoning=1))
    assert pickle.loads(pickle.dumps(error)).usage == error.usage


def test_so_does_what_the_provider_asked_to_wait() -> None:
    error = ProviderThrottled("x", retry_after_s=1.5, usage=Usage(input=1))
    again = pickle.loads(pickle.dumps(error))
    assert (again.retry_after_s, again.usage) == (1.5, Usage(input=1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_docstring_is_the_message_unless_one_is_given(kind: type[QAWorkerError]) -> None:
    assert str(kind()) == (kind.__doc__ or "").splitlines()[0]
    assert "\n" not in str(kind())


@pytest.mark.parametrize("kind", CALL_KINDS)
def test_every_failed_call_has_a_reason_of_its_own(kind: type[CallError]) -> None:
    assert kind.reason.replace("_", "").islower()
    assert [other for other in CALL_KINDS if other.reason == kind.reason] == [kind]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ConfigError, 78),
        (errors.InputError, 65),
        (errors.RunDirectoryError, 75),
        (errors.StoreUnavailable, 75),
        (errors.HaltError, 69),
        (errors.MessageInvalid, 1),
        (errors.ProviderUnavailable, 1),
    ],
)
def test_the_kind_of_error_decides_the_exit_status(kind: type[QAWorkerError], code: int) -> None:
    assert kind().exit_code == code


def test_exit_statuses_are_distinct() -> None:
    assert len({int(code) for code in ExitCode}) == len(ExitCode.__members__)


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_of_the_tree_names_every_kind(kind: type[QAWorkerError]) -> None:
    if kind is not CallError:  # the base of three branches, never raised itself
        assert f" {kind.__name__}" in f" {errors.__doc__}".replace("\n", " ")
