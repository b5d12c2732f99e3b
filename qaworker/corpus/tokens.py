"""Counts tokens as the models do, offline."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Final

Counter = Callable[[str], int]
"""The number of tokens of a text; special tokens such as ``<|endoftext|>`` count as plain text."""

# The models before gpt-4o; every later one of OpenAI's counts in o200k_base.
_CL100K: Final = re.compile(r"(ft:)?gpt-(4([-:]|$)|3)")


@cache
def _bindings() -> ModuleType:
    """The compiled half of bpe-openai.

    Its Python half, which nobody needs for counting, unpacks three vocabularies at import: 0.5 s
    and 80 MB. So the compiled module is loaded without the package around it.
    """
    package = importlib.util.find_spec("bpe_openai")
    folders = package.submodule_search_locations if package else None
    spec = PathFinder.find_spec("bpe_openai._bindings", folders)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError("bpe_openai has no compiled module: install bpe-openai again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoding_name(model: str) -> str:
    """The vocabulary of ``model``: o200k_base unless it is known to be older.

    Models of other makers have vocabularies of their own; o200k_base is near enough to size
    their chunks.
    """
    return "cl100k_base" if _CL100K.match(model) else "o200k_base"


@cache
def _counter(encoding: str) -> Counter:
    count: Counter = _bindings().tokenizer_for_encoding(encoding).count
    return count


def counter(model: str) -> Counter:
    """The function that counts the tokens of ``model``; the same one for the same vocabulary."""
    return _counter(encoding_name(model))
