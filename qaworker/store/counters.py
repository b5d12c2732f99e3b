"""Counters and histograms in one Redis hash, added up over all processes and over all restarts.

A process adds up in memory what it counts and hands it over in numbered portions, so that one that is
sent again, because nobody knows whether it arrived, counts once. Every number is whole: dollars are
counted in millionths and seconds in microseconds, so that no sum depends on its order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

from qaworker import keys
from qaworker.redis_errors import left_out, store_errors

MOST_MODELS: Final = 20
"""That are counted by their name: the first ones that a provider answered for."""
OTHER: Final = "other"
"""All models after those, and before their first answer: a mistyped one takes no place for good."""
MICRO: Final = 1_000_000
INFINITE: Final = "+Inf"

_SUM: Final = "sum"
# Longer than any process tries to hand over one portion.
_FORGET_WRITER: Final = timedelta(days=1)

# KEYS[1] -> counters (Hash)
# KEYS[2] -> the number of this writer's last portion (String)
# KEYS[3] -> models that are counted by their name (Set)
# KEYS[4...] -> who took each chunk whose outcome is stored along with it (Set)
# ARGV[1] -> the number of this portion
# ARGV[2] -> seconds after which the writer is forgotten
# ARGV[3] -> how many models are counted by their name
# ARGV[4...] -> the field of each outcome; then in threes: a field without its model, the model or
#               nothing, what to add
# Output: what went wrong, or nothing
#
# Who took a chunk is noted until its first outcome: another one, of a worker that was taken for dead,
# is not counted.
# It goes along with outcomes, which must not wait for it: an error is told and not raised.
_ADD: Final = """
local function name_of(model)
  return redis.call("SISMEMBER", KEYS[3], model) == 1 and model or "other"
end

local function add()
  if tonumber(redis.call("GET", KEYS[2]) or 0) >= tonumber(ARGV[1]) then return end
  redis.call("SET", KEYS[2], ARGV[1], "EX", ARGV[2])
  for i = 4, #KEYS do
    if redis.call("EXISTS", KEYS[i]) == 1 then redis.call("HINCRBY", KEYS[1], ARGV[i], 1) end
  end
  for i = #KEYS + 1, #ARGV, 3 do
    if ARGV[i] == "requests|ok" and redis.call("SCARD", KEYS[3]) < tonumber(ARGV[3]) then
      redis.call("SADD", KEYS[3], ARGV[i + 1])
    end
  end
  for i = #KEYS + 1, #ARGV, 3 do
    local field = ARGV[i]
    if ARGV[i + 1] ~= "" then field = field .. "|" .. name_of(ARGV[i + 1]) end
    redis.call("HINCRBY", KEYS[1], field, ARGV[i + 2])
  end
end

local is_done, problem = pcall(add)
if is_done then return "" end
return type(problem) == "table" and problem.err or tostring(problem)
"""


@dataclass(frozen=True, slots=True)
class Total:
    """Something that is counted."""

    name: str
    labels: tuple[str, ...] = ()
    """``model`` is the last one: its values may contain anything."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Something whose duration is counted, by how long it took at most."""

    name: str
    label: str
    bounds_s: tuple[float, ...]
    """Without the last one, which is infinite."""


CHUNKS: Final = Total("chunks", ("outcome",))
FAILURES: Final = Total("failures", ("reason",))
RETRIES: Final = Total("retries", ("reason",))
REDELIVERIES: Final = Total("redeliveries")
REQUESTS: Final = Total("requests", ("status", "model"))
TOKENS: Final = Total("tokens", ("kind", "model"))
MICRO_DOLLARS: Final = Total("micro_dollars", ("model",))

CALL: Final = Histogram("call", "model", (0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 100))
LIMITER_WAIT: Final = Histogram("limiter_wait", "model", (0.05, 0.25, 1, 2, 5, 10, 20, 30, 60, 120))
TASK_WAIT: Final = Histogram("task_wait", "queue", (0.1, 1, 5, 15, 60, 300, 900, 3600, 14400))

TOTALS: Final = (CHUNKS, FAILURES, RETRIES, REDELIVERIES, REQUESTS, TOKENS, MICRO_DOLLARS)
HISTOGRAMS: Final = (CALL, LIMITER_WAIT, TASK_WAIT)

_Field = tuple[str, str]
"""Its name but for the model, and the model, if there is one."""
_Stored = tuple[str, int]
"""The labels of a field, joined, and its value."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What a process hands over at once."""

    number: int
    counts: Mapping[_Field, int]
    settled: Mapping[str, str] = field(default_factory=dict)
    """Digests of chunks whose outcome is stored along with it, and its kind."""

    def settling(self, settled: Mapping[str, str]) -> Portion:
        """The same, and these chunks, of which those are counted that had no outcome yet."""
        return replace(self, settled=settled)

    def add_to(self, pipe: Any, writer: str) -> None:
        """Add to a pipeline, of either kind, what counts it; answers what went wrong, or nothing.

        Who took a chunk that is settled is to be forgotten after it, in the same transaction.

        Args:
            pipe: to be executed, and if that fails perhaps once more.
            writer: the process, by a name that no other ever had.
        """
        names = [keys.counters(), keys.counted(writer), keys.counted_models()]
        names += map(keys.takers, self.settled)
        kinds = [f"{CHUNKS.name}|{kind}" for kind in self.settled.values()]
        counts = [part for (name, model), by in self.counts.items() for part in (name, model, by)]
        forget_s = int(_FORGET_WRITER.total_seconds())
        pipe.eval(_ADD, len(names), *names, self.number, forget_s, MOST_MODELS, *kinds, *counts)


class Counts:
    """What a process has counted and not handed over yet; belongs to one thread."""

    def __init__(self) -> None:
        self._open: Counter[_Field] = Counter()
        self._portions = 0

    def add(self, total: Total, *labels: str, by: int = 1) -> None:
        """Count, with a value for each label of the total."""
        *closed, last = (total.name, *labels)
        if total.labels[-1:] == ("model",):
            self._open["|".join(closed), last] += by
        else:
            self._open["|".join((*closed, last)), ""] += by

    def observe(self, histogram: Histogram, duration_s: float, label: str) -> None:
        """Count one duration, with the value of the histogram's label."""
        place = bisect_left(histogram.bounds_s, duration_s)
        bound = f"{histogram.bounds_s[place]:g}" if place < len(histogram.bounds_s) else INFINITE
        for part, by in ((bound, 1), (_SUM, round(duration_s * MICRO))):
            if histogram.label == "model":
                self._open[f"{histogram.name}|{part}", label] += by
            else:
                self._open[f"{histogram.name}|{part}|{label}", ""] += by

    def take(self) -> Portion:
        """Everything there is, to be handed over, however often that has to be tried."""
        counts, self._open = self._open, Counter()
        self._portions += 1
        return Portion(self._portions, counts)

    def put_back(self, portion: Portion) -> None:
        """Keep for another portion what was certainly not handed over."""
        self._open.update(portion.counts)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to hand over."""
        return not self._open


@dataclass(frozen=True, slots=True)
class Durations:
    """One series of a histogram."""

    counts: tuple[int, ...]
    """For each bound, and at last for the infinite one: how many were longer than the one before."""
    sum_s: float


@dataclass(frozen=True, slots=True)
class Counted:
    """What all processes have counted since Redis has its data."""

    totals: dict[Total, dict[tuple[str, ...], int]]
    """By the values of the labels."""
    histograms: dict[Histogram, dict[str, Durations]]
    """By the value of the label."""
    models: frozenset[str] = field(default=frozenset())
    """That are counted by their name."""


def counted(redis: Any) -> Counted:
    """Everything that was counted, in one round trip; raises StoreUnavailable.

    What another version counted and this one does not know is left out.
    """
    with store_errors(), redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.counters())
        pipe.smembers(keys.counted_models())
        stored, models = pipe.execute()
    fields: defaultdict[str, list[_Stored]] = defaultdict(list)
    for field_name, value in stored.items():
        name, _, labels = field_name.decode().partition("|")
        try:
            fields[name].append((labels, int(value)))
        except ValueError:
            left_out("counter", field_name.decode())
    return Counted(
        {total: _total(fields[total.name], len(total.labels)) for total in TOTALS},
        {histogram: _durations(fields[histogram.name], histogram) for histogram in HISTOGRAMS},
        frozenset(model.decode() for model in models),
    )


def _total(stored: Sequence[_Stored], labels: int) -> dict[tuple[str, ...], int]:
    found = {}
    for joined, value in stored:
        values = tuple(joined.split("|", labels - 1)) if joined else ()
        if len(values) == labels:
            found[values] = value
    return found


def _durations(stored: Sequence[_Stored], histogram: Histogram) -> dict[str, Durations]:
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(histogram.bounds_s) + 1))
    sums: Counter[str] = Counter()
    for joined, value in stored:
        part, _, label = joined.partition("|")
        if part == _SUM:
            sums[label] += value
            continue
        try:
            bound_s = float(part)
        except ValueError:
            left_out("counter", f"{histogram.name}|{joined}")
        else:
            # Of a version with other bounds: among the next longer ones.
            counts[label][bisect_left(histogram.bounds_s, bound_s)] += value
    return {
        label: Durations(tuple(series), sums[label] / MICRO) for label, series in counts.items()
    }
