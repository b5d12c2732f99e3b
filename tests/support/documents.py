"""What README.md and RUNBOOK.md tell people to type, and the output they show for it."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.support.processes import ROOT

DOCUMENTS: Final = ("README.md", "RUNBOOK.md")
PROGRAMS: Final = ("qaworker", "start_celery.sh", "celery_monitor.sh")
# What stands for something: a word that the command takes in its place.
_PLACEHOLDERS: Final = {"N": "2", "S": "30", "USD": "5", "NAME": "cc_news", "LEVEL": "info"}
_LEFT_OUT: Final = "…"
_SPAN: Final = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_CHOICE: Final = re.compile(r"\(([^()]*\|[^()]*)\)")
_INNER: Final = re.compile(r"\$\(([^()]*)\)")


@dataclass(frozen=True, slots=True)
class Documented:
    """One command line of ours."""

    place: str
    """Document and line."""
    text: str
    words: tuple[str, ...]
    """The program and its arguments; a word stands in for each placeholder."""
    is_mention: bool
    """It stands in a sentence or leaves something out: arguments may be missing."""
    output: tuple[str, ...] = ()


def read(document: str) -> str:
    """The text of a document."""
    return (ROOT / document).read_text(encoding="utf-8")


def commands(document: str) -> list[Documented]:
    """Every command line of ours, those of console blocks with the output shown below them."""
    found: list[Documented] = []
    block = ""
    is_open = False
    for number, line in enumerate(read(document).splitlines(), start=1):
        place = f"{document}:{number}"
        if line.lstrip().startswith("```"):
            block, is_open = ("" if block else line.strip().removeprefix("```") or "text"), False
        elif block == "console" and line.lstrip().startswith("$ "):
            typed = list(_typed(place, line.lstrip().removeprefix("$ "), is_mention=False))
            is_open = bool(typed)
            found += typed
        elif block == "console" and is_open:
            found[-1] = replace(found[-1], output=(*found[-1].output, line.strip()))
        elif not block:
            for span in _SPAN.findall(line):
                found += _typed(place, span.replace(r"\|", "|"), is_mention=True)
    return found


def anchors(document: str) -> set[str]:
    """What its headings are called in links, as GitHub makes it of them."""
    text = re.sub(r"^```.*?^```", "", read(document), flags=re.DOTALL | re.MULTILINE)
    headings: list[str] = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: str) -> list[str]:
    """Where its links lead."""
    return re.findall(r"\]\(([^)\s]+)\)", read(document))


def _typed(place: str, line: str, *, is_mention: bool) -> Iterator[Documented]:
    """The commands of ours in one line of a shell, or in words about one."""
    for text in _alternatives(line):
        for part in (text, *_INNER.findall(text)):
            for words in _simple_commands(part):
                if Path(words[0]).name in PROGRAMS:
                    given = tuple(_PLACEHOLDERS.get(word, word) for word in words[1:])
                    kept = tuple(word for word in given if word != _LEFT_OUT)
                    yield Documented(
                        place,
                        text,
                        (Path(words[0]).name, *kept),
                        is_mention or kept != given,
                    )


def _alternatives(text: str) -> Iterator[str]:
    """``a (b | c)`` says ``a b`` and ``a c``."""
    choices = [choice.split("|") for choice in _CHOICE.findall(text)]
    for chosen in itertools.product(*choices):
        words = iter(chosen)
        yield _CHOICE.sub(lambda _: next(words).strip(), text)  # noqa: B023, it is called here


def _simple_commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a line, without what stands before it: sudo, NAME=value."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError:  # prose with an apostrophe
        return
    for is_between, group in itertools.groupby(tokens, lambda token: set(token) <= set("();<>|&")):
        words = list(
            itertools.dropwhile(lambda word: word == "sudo" or re.match(r"[A-Z_]+=", word), group)
        )
        if words and not is_between:
            yield words
