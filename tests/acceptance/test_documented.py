"""Commands print what README.md and RUNBOOK.md show: they are run here, in good times and in bad ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.acceptance.operator import COMMAND, Operator
from tests.acceptance.site import Site
from tests.support.documents import DOCUMENTS, Documented, commands
from tests.support.processes import QAWORKER, ROOT
from tests.support.redis_server import RedisServer
from tests.support.waiting import wait_until

ARGUMENTS = {
    "qaworker": QAWORKER,
    "start_celery.sh": COMMAND,
    "celery_monitor.sh": (*QAWORKER, "monitor"),
}
# What they change is the test's own. A start and a stop have places of their own below.
TRIED = (
    ("qaworker", "check"),
    ("qaworker", "config"),
    ("qaworker", "dead"),
    ("qaworker", "generate"),
    ("qaworker", "hold"),
    ("qaworker", "plan"),
    ("qaworker", "status"),
    ("qaworker", "workers"),
    ("start_celery.sh", "status"),
    ("celery_monitor.sh",),
)
ASKS_ONLY = (
    ("qaworker", "check"),
    ("qaworker", "config"),
    ("qaworker", "dead", "list"),
    ("qaworker", "dead", "show"),
    ("qaworker", "hold", "list"),
    ("qaworker", "status"),
    ("qaworker", "workers"),
    ("start_celery.sh", "status"),
)
LEFT_OUT = "…"


class Place:
    """An installation whose API and Redis may fail, and all that was typed there."""

    def __init__(self, site: Site, redis: RedisServer) -> None:
        self.site = site
        self.redis = redis
        (site.directory / "samples").symlink_to(ROOT / "samples")
        self.operator = Operator(site.directory, site, QAWORKER_RUNS_DIR=str(site.directory))
        self.stands_for: dict[str, str] = {}
        self.unseen: dict[tuple[str, ...], dict[str, str]] = {}
        """Command -> place of each output that nothing printed yet, and what of it is missing."""
        self.answers: dict[tuple[str, ...], tuple[int, str]] = {}
        """What commands that only ask said, since something changed."""

    def run(self, words: tuple[str, ...]) -> tuple[int, str]:
        """Exit status and all that is printed."""
        if words in self.answers:
            return self.answers[words]
        program, *arguments = (self.stands_for.get(word, word) for word in words)
        ran = self.operator.type(*ARGUMENTS[program], *arguments)
        answer = (ran.code, f"{ran.out}\n{ran.err}")
        if begins(words, ASKS_ONLY):
            self.answers[words] = answer
        else:
            self.answers.clear()
        return answer

    def look(self) -> None:
        """Type, in their order, all commands whose output was not seen yet."""
        for command in shown(TRIED):
            self.compare(command)

    def wait_until_said(self, words: tuple[str, ...], sign: str) -> None:
        """Ask again until a command says something, as after something has changed."""

        def says() -> bool:
            self.answers.clear()
            return sign in self.run(words)[1]

        wait_until(says, 40, f"{words} to say {sign}")

    @property
    def differences(self) -> str:
        """What is shown and was never printed."""
        return "\n".join(
            f"{where} {' '.join(words)}:\n{absent}"
            for words, texts in self.unseen.items()
            for where, absent in texts.items()
            if absent
        )

    def compare(self, documented: Documented) -> None:
        """Run it, unless what is shown of it was printed before."""
        pending = self.unseen.setdefault(documented.words, {})
        if pending.get(documented.place) != "":
            _, printed = self.run(documented.words)
            absent = "\n".join(missing(documented.output, printed))
            pending[documented.place] = min(pending.get(documented.place, absent), absent, key=len)


@pytest.fixture
def place(
    open_site: Callable[[str], Site], start_redis: Callable[..., RedisServer]
) -> Iterator[Place]:
    redis = start_redis(appendonly=True)
    site = open_site(redis.url)
    site.simulate("--fault", "refusal=0.2")
    place = Place(site, redis)
    yield place
    place.operator.end()


def normal(line: str) -> list[str]:
    """The cells of a line, without what is another at each run: names of hosts, numbers."""
    cells = re.split(r"\s{2,}", line.strip())
    named = [re.sub(r"\S+@\S+", "NAME", cell) for cell in cells]
    return [re.sub(r"\b[0-9a-f]{8,}\b|[0-9][0-9.,]*", "N", cell) for cell in named]


def label(cells: list[str]) -> str:
    """What a line says first: the name of its value, and the value where that is a plain word."""
    if len(cells) == 2:
        return cells[0]
    name, _, value = cells[0].partition(":")
    first = value.split()[:1]
    return f"{name}: {first[0]}" if first and re.fullmatch(r"[^\W\d_]+|✓|✗", first[0]) else name


def missing(shown: tuple[str, ...], printed: str) -> list[str]:
    """The lines that are shown and have none like them among those that were printed.

    Like a line is one of the same label; like the head of a table the same head, and like a row of it
    any of as many cells.
    """
    real = [normal(line) for line in printed.splitlines()]
    labels = {label(cells) for cells in real if len(cells) < 3}
    absent = []
    columns = 0
    for line in shown:
        cells = normal(line)
        if line in {"", LEFT_OUT}:
            columns = 0
        elif len(cells) > 2:
            if cells in real:
                columns = len(cells)
            elif len(cells) != columns:
                absent.append(line)
        elif label(cells) not in labels:
            absent.append(line)
    return absent


def every_command() -> list[Documented]:
    return [command for document in DOCUMENTS for command in commands(document)]


def shown(begin: tuple[tuple[str, ...], ...]) -> list[Documented]:
    """Commands that begin so and are shown with output."""
    return [one for one in every_command() if one.output and begins(one.words, begin)]


def begins(words: tuple[str, ...], begin: tuple[tuple[str, ...], ...]) -> bool:
    return any(words[: len(first)] == first for first in begin)


@pytest.mark.slow
def test_commands_print_what_is_shown(place: Place) -> None:
    site = place.site
    for started in shown((("start_celery.sh", "start"),)):
        place.compare(started)
    run = site.generate(site.dataset(30), "run", "--use-celery")
    assert run.wait_exit(30) == 1, run.output
    site.api.set_faults()
    place.stands_for = {
        "DIGEST": an_english_letter(place),
        "RUN": str(site.directory / "run"),
        "RUN_DIR": str(site.directory / "run"),
    }
    with ThreadPoolExecutor(max_workers=2) as people:
        questions = sorted({one.words for one in every_command() if is_whole_question(one)})
        for words, (code, printed) in zip(questions, people.map(place.run, questions), strict=True):
            assert code == 0, (words, printed)
    place.look()

    place.redis.kill()
    place.wait_until_said(("start_celery.sh", "status"), "✗ not answering")
    place.look()
    place.redis.start()
    place.wait_until_said(("start_celery.sh", "status"), "3 of 3 consume")

    # A key that is refused: nobody calls, and messages wait.
    site.api.set_faults(auth=1)
    submit = site.command(
        "submit", "--input-file", site.dataset(2000, first=30), "--output", site.directory / "held"
    )
    assert submit.wait_exit(30) == 0, submit.output
    place.wait_until_said(("qaworker", "hold", "list"), "account@")
    place.look()
    for stopped in shown((("start_celery.sh", "stop"),)):
        place.compare(stopped)
    assert place.differences == ""


def is_whole_question(command: Documented) -> bool:
    """Whether it changes nothing, and nothing of it is left out."""
    return begins(command.words, ASKS_ONLY) and (not command.is_mention or len(command.words) > 1)


def an_english_letter(place: Place) -> str:
    """The digest of a dead letter such as the runbook shows."""
    _, printed = place.run(("qaworker", "dead", "show", "--json"))
    letters = json.loads(printed)
    return next(
        str(one["digest"]) for one in letters if str(one["chunk"]["text"]).startswith("Station")
    )
