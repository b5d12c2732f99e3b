from __future__ import annotations

import inspect

from qaworker import keys


def built() -> dict[str, str]:
    """Every key of this module, made with the same argument."""
    functions = inspect.getmembers(keys, inspect.isfunction)
    return {
        name: function(*("x" for _ in inspect.signature(function).parameters))
        for name, function in functions
    }


def test_every_key_stands_under_the_prefix() -> None:
    assert all(key.startswith("qaw:") for key in built().values())


def test_no_two_keys_are_alike() -> None:
    assert len(set(built().values())) == len(built())


def test_no_key_is_the_name_of_a_queue() -> None:
    others = {key for name, key in built().items() if name != "queue"}
    assert not others & {keys.queue(name) for name in keys.QUEUES}


def test_every_key_says_what_type_it_has() -> None:
    types = ("List", "Hash", "Sorted set", "String", "Set")
    for name in built():
        assert str(getattr(keys, name).__doc__).startswith(types), name


def test_the_default_queue_stands_between_high_and_normal() -> None:
    assert keys.QUEUES == ("high_priority", "qa_generation", "normal_priority", "low_priority")
    assert keys.DEFAULT_QUEUE in keys.QUEUES
