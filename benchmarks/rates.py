"""What two workers make of a rate limit, and what others make of it: cases of `limits.py`.

The simulator's limits are strict: continuous buckets that hold one second's capacity. What counts are
the answers that it gave in a window of its own clock, which opens some seconds after the first of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from benchmarks import harness
from benchmarks.harness import Stack, cpu_s
from benchmarks.report import Figure
from qaworker import keys
from tests.support.processes import Process
from tests.support.waiting import wait_until

MODEL: Final = "gpt-5-mini"
RIVALS: Final = ("cookbook", "retry-only")
CONNECTIONS: Final = {"cookbook": 100, "retry-only": 512}
FIRST_ANSWER_S: Final = 90.0
# Below this a scaled warm-up would be none.
LEAST_SCALE_OF_WARM_UP: Final = 0.2


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit, and what is wanted of those who keep it."""

    title: str
    least_share: float
    rpm: int = 0
    tpm: int = 0
    latency_s: float = 2.0
    window_s: float = 60.0
    warm_up_s: float = 5.0
    most_refused: float = 0.0
    """Share of the calls in the window."""
    most_refused_at_first: float | None = None
    """Calls before the window."""
    told: float = 1.0
    """What everybody is told the limit is, as a multiple of what it is."""
    most_cpu_ms: float | None = None
    least_tokens: int = 0
    """Of a chunk; 0 when all have the size of the largest."""
    most_tokens: int = 300
    env: Mapping[str, str] = field(default_factory=dict)
    """Of the workers."""
    is_apart: bool = False
    """Whether the workers' clocks differ by five minutes."""
    rivals: tuple[str, ...] = RIVALS

    def chunks(self, scale: float) -> int:
        """More than can be answered until the window ends."""
        least_call = 400  # tokens, with the smallest chunks
        per_minute = self.rpm or self.tpm / least_call
        return int(per_minute / 60 * (self.window_s * scale + self.warm_up_s + 10))

    def simulator_options(self) -> tuple[str, ...]:
        """What the limit is."""
        limits = ("--rpm", str(self.rpm), "--tpm", str(self.tpm))
        return ("--latency", str(self.latency_s), *limits)


RATES: Final[Mapping[str, Rate]] = {
    "rpm": Rate(
        "3,500 requests a minute, answers after 2 s",
        rpm=3500,
        least_share=0.98,
        most_refused_at_first=0,
    ),
    "slow": Rate(
        "3,500 requests a minute, answers after 6 s",
        rpm=3500,
        latency_s=6,
        least_share=0.98,
        most_refused_at_first=0,
    ),
    "tpm": Rate(
        "200,000 tokens a minute, 300 to 1,500 a call",
        tpm=200_000,
        window_s=120,
        least_share=0.97,
        most_refused=0.005,
        least_tokens=30,
        most_tokens=850,
        # Otherwise nothing that waits too long would show in so short a time.
        env={"QAWORKER_TASK_SOFT_LIMIT_S": "60"},
    ),
    "high": Rate(
        "18,000 requests a minute",
        rpm=18_000,
        least_share=0.95,
        most_refused_at_first=0,
        most_cpu_ms=3.5,
    ),
    "clocks": Rate(
        "3,500 requests a minute, clocks 5 minutes apart",
        rpm=3500,
        least_share=0.97,
        most_refused_at_first=0,
        is_apart=True,
        rivals=(),  # they share nothing that a clock could spoil
    ),
    "half": Rate(
        "3,500 requests a minute, where 7,000 are expected",
        rpm=3500,
        told=2,
        warm_up_s=10,
        least_share=0.95,
        most_refused=0.02,
    ),
}


@dataclass(frozen=True, slots=True)
class Moment:
    """What the simulator has served, and what its callers have used."""

    served: dict[str, Any]
    cpu_s: float

    @classmethod
    def of(cls, running: Stack, callers: Sequence[Process]) -> Self:
        """Now."""
        return cls(running.simulator.stats(), sum(cpu_s(caller.pid) for caller in callers))

    @property
    def refused(self) -> int:
        """Calls answered with 429."""
        return int(self.served["answers"].get("429", 0))


@dataclass(frozen=True, slots=True)
class Kept:
    """How one way kept a limit."""

    share: float
    """Of the limit, in the window."""
    refused: int
    """Calls answered with 429 in the window."""
    refused_share: float
    """Those, of all calls."""
    refused_at_first: int
    """Calls answered with 429 before the window."""
    cpu_ms: float
    """Processor time of the callers, for each call that was answered."""
    given_up: int
    """Chunks that will have no answer."""

    @classmethod
    def between(cls, rate: Rate, begin: Moment, end: Moment, given_up: int) -> Self:
        """What happened in a window."""
        minutes = (end.served["window_s"] - begin.served["window_s"]) / 60
        calls = end.served["calls"] - begin.served["calls"]
        used, limit = calls, rate.rpm
        if rate.tpm:
            used = sum(end.served["tokens"].values()) - sum(begin.served["tokens"].values())
            limit = rate.tpm
        refused = end.refused - begin.refused
        return cls(
            share=used / minutes / limit,
            refused=refused,
            refused_share=refused / max(1, refused + calls),
            refused_at_first=begin.refused,
            cpu_ms=(end.cpu_s - begin.cpu_s) / max(1, calls) * 1000,
            given_up=given_up,
        )


def measure(rate: Rate, scale: float) -> list[Figure]:
    """The figures of every way, one after the other."""
    with harness.stack(*rate.simulator_options()) as running:
        ours, handed_back = _ours(running, rate, scale)
    rivals = {}
    for way in rate.rivals:
        with harness.stack(*rate.simulator_options()) as running:
            rivals[way] = _rival(running, rate, way, scale)

    def figure(
        name: str, of: str, form: str, *, least: float | None = None, most: float | None = None
    ) -> Figure:
        others = {way: getattr(kept, of) for way, kept in rivals.items()}
        return Figure(name, getattr(ours, of), others, least, most, form, is_of_full_size=True)

    first = rate.most_refused_at_first
    return [
        figure("share of the limit", "share", ".3f", least=rate.least_share),
        figure("calls answered with 429", "refused", ",.0f"),
        figure("of all calls", "refused_share", ".2%", most=rate.most_refused),
        figure("429s in the warm-up", "refused_at_first", ",.0f", most=first),
        replace(figure("chunks given up", "given_up", ",.0f", most=0), is_of_full_size=False),
        Figure("chunks handed back", handed_back, dict.fromkeys(rivals), most=0.01, form=".2%"),
        figure("CPU ms a call", "cpu_ms", ".2f", most=rate.most_cpu_ms),
    ]


def _ours(running: Stack, rate: Rate, scale: float) -> tuple[Kept, float]:
    """How two workers kept it, and the share of chunks that they handed back."""
    told = {"QAWORKER_RPM": rate.rpm * rate.told, "QAWORKER_TPM": rate.tpm * rate.told}
    env = {name: f"{limit:.0f}" for name, limit in told.items()} | dict(rate.env)
    running.start_workers(1, **env)
    running.start_workers(1, **env, **(harness.five_minutes_ahead() if rate.is_apart else {}))
    # Each document is one chunk, whatever its size.
    size = str(rate.most_tokens + 50)
    client = running.generate(
        _dataset(running, rate, scale), "--max-tokens", size, "--chunk-size", size
    )
    begin, end = _window(running, rate, scale, running.workers, client)
    with running.redis.client() as redis:
        dead: Any = redis.zcard(keys.letters())
    handed_back = sum(event["unfinished"] for event in running.events("task_handed_back"))
    return Kept.between(rate, begin, end, dead), handed_back / end.served["calls"]


def _rival(running: Stack, rate: Rate, way: str, scale: float) -> Kept:
    """How two processes kept it that know half of it each."""
    dataset = _dataset(running, rate, scale)
    connections = max(CONNECTIONS[way], round(rate.rpm * rate.told * rate.latency_s / 60 / 2))
    halves = [
        running.start(
            sys.executable, "-m", "benchmarks.rivals", way, str(dataset),
            "--model", MODEL, "--half", str(half), "--connections", str(connections),
            "--rpm", str(rate.rpm * rate.told), "--tpm", str(rate.tpm * rate.told),
            log=f"{way}-{half}.log",
        )
        for half in (0, 1)
    ]  # fmt: skip
    begin, end = _window(running, rate, scale, halves, *halves)
    given_up = sum(half.output.count("given up\n") for half in halves)
    return Kept.between(rate, begin, end, given_up)


def _dataset(running: Stack, rate: Rate, scale: float) -> Path:
    path = running.directory / "passages.jsonl"
    tokens, least = rate.most_tokens, rate.least_tokens
    harness.write_passages(path, rate.chunks(scale), tokens=tokens, least=least)
    return path


def _window(
    running: Stack, rate: Rate, scale: float, callers: Sequence[Process], *needed: Process
) -> tuple[Moment, Moment]:
    """The moments when the window opens and closes; the ``needed`` must not end before."""

    def is_answering() -> bool:
        for process in needed:
            process.check_alive()
        return bool(running.simulator.stats()["calls"])

    wait_until(is_answering, FIRST_ANSWER_S, "the first answer")
    time.sleep(rate.warm_up_s * max(scale, LEAST_SCALE_OF_WARM_UP))
    begin = Moment.of(running, callers)
    time.sleep(rate.window_s * scale)
    end = Moment.of(running, callers)
    for process in needed:
        process.check_alive()
    return begin, end
