"""Dead letters: chunks that cannot succeed and messages nobody can read, kept to be looked at.

A letter holds what it takes to send exactly its chunk again. It expires like an outcome.
"""

from __future__ import annotations

import base64
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer
from redis import Redis

from qaworker import keys, logs
from qaworker.models import Chunk, GenerationConfig, Outcome
from qaworker.redis_errors import store_errors

log = logs.get(__name__)

UNREADABLE: Final = "unreadable"
"""The reason of a message that is none."""
_PAGE: Final = 500

# KEYS[1] -> letters (Sorted set)
# KEYS[2] -> a letter (String)
# ARGV[1] -> its member in the set
# ARGV[2] -> when it died
# Output: 1 when it was removed, 0 when it was gone, or its chunk has died once more
_REMOVE: Final = """
local died_at = redis.call("ZSCORE", KEYS[1], ARGV[1])
if not died_at or tonumber(died_at) ~= tonumber(ARGV[2]) then
  return 0
end
redis.call("ZREM", KEYS[1], ARGV[1])
redis.call("DEL", KEYS[2])
return 1
"""


def _decoded(value: object) -> object:
    return base64.b64decode(value) if isinstance(value, str) else value


# In JSON the base64 of everybody's tools; pydantic's own is the one for URLs.
_Bytes = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda raw: base64.b64encode(raw).decode(), return_type=str, when_used="json"),
]


def member(run_id: str, digest: str) -> str:
    """The name in the index of the letter of a run's chunk."""
    return f"{run_id}:{digest}"


class DeadLetter(BaseModel):
    """A chunk without hope, or a message that cannot be read.

    While hosts are upgraded one after the other, versions read each other's letters.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    digest: str
    """Of the outcome; of an unreadable message, of its bytes."""
    run_id: str = ""
    reason: str
    detail: str = ""
    """The last error, redacted and short."""
    attempts: int = 0
    calls: int = 0
    died_at: float
    """Seconds since the epoch, by its worker's clock."""
    queue: str = ""
    """Where its message was read; empty where a command made the calls itself."""
    chunk: Chunk | None = None
    config: GenerationConfig | None = None
    model: str = ""
    raw: _Bytes = b""
    """The message that cannot be read, as it stood in the queue."""

    @property
    def member(self) -> str:
        """Its name in the index."""
        return member(self.run_id, self.digest)


def letter_of(
    outcome: Outcome,
    chunk: Chunk,
    config: GenerationConfig,
    model: str,
    *,
    queue: str,
    attempts: int,
) -> DeadLetter:
    """The letter that goes with a dead outcome."""
    return DeadLetter(
        digest=outcome.digest,
        run_id=outcome.run_id,
        reason=outcome.reason,
        detail=outcome.detail,
        attempts=attempts,
        calls=outcome.calls,
        died_at=time.time(),
        queue=queue,
        chunk=chunk,
        config=config,
        model=model,
    )


def encode(letter: DeadLetter) -> bytes:
    """Compact JSON, compressed."""
    return zlib.compress(letter.model_dump_json(exclude_defaults=True).encode(), level=1)


def put(pipe: Any, letter: DeadLetter, keep: timedelta) -> None:
    """Add to a pipeline, of either kind, what keeps a letter and forgets those that expired."""
    pipe.set(keys.letter(letter.run_id, letter.digest), encode(letter), ex=keep)
    pipe.zadd(keys.letters(), {letter.member: letter.died_at})
    forget_expired(pipe, letter.died_at, keep)


def forget_expired(pipe: Any, now: float, keep: timedelta) -> None:
    """Add to a pipeline, of either kind, what lists no letter that has expired by now."""
    pipe.zremrangebyscore(keys.letters(), "-inf", now - keep.total_seconds())
    pipe.expire(keys.letters(), keep)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that fit everything that is given."""

    digests: tuple[str, ...] = ()
    """How they begin; any when empty."""
    run_id: str | None = None
    reason: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None

    def _admits(self, member: str) -> bool:
        run_id, _, digest = member.rpartition(":")
        if self.run_id not in {None, run_id}:
            return False
        return not self.digests or digest.startswith(self.digests)


class DeadLetters:
    """The letters in Redis; every method raises StoreUnavailable."""

    def __init__(self, redis: Redis) -> None:
        # Its answers are typed for every option of the client.
        self._redis: Any = redis

    def find(self, selection: Selection) -> Iterator[DeadLetter]:
        """The letters selected, the newest first; those found may be removed meanwhile."""
        now = time.time()
        newest = "+inf" if selection.older_than is None else now - _seconds(selection.older_than)
        oldest = "-inf" if selection.newer_than is None else now - _seconds(selection.newer_than)
        with store_errors():
            members = self._redis.zrange(keys.letters(), newest, oldest, desc=True, byscore=True)
        wanted = (name for member in members if selection._admits(name := member.decode()))  # noqa: SLF001, of this module
        while page := list(islice(wanted, _PAGE)):
            for letter in self._read(page):
                if selection.reason in {None, letter.reason}:
                    yield letter

    def _read(self, members: Sequence[str]) -> Iterator[DeadLetter]:
        names = []
        for member in members:
            run_id, _, digest = member.rpartition(":")
            names.append(keys.letter(run_id, digest))
        with store_errors():
            blobs = self._redis.mget(names)
        for member, blob in zip(members, blobs, strict=True):
            if blob is None:  # it expired
                continue
            try:
                yield DeadLetter.model_validate_json(zlib.decompress(blob))
            except (zlib.error, ValueError) as error:
                log.warning("dead_letter_unreadable", letter=member, error=str(error))

    def remove(self, letters: Iterable[DeadLetter]) -> int:
        """Remove letters; returns how many, as one whose chunk died once more stays."""
        with store_errors(), self._redis.pipeline(transaction=False) as pipe:
            for letter in letters:
                name = keys.letter(letter.run_id, letter.digest)
                died_at = repr(letter.died_at)
                pipe.eval(_REMOVE, 2, keys.letters(), name, letter.member, died_at)
            return sum(pipe.execute())

    def count(self, keep: timedelta) -> int:
        """How many there are; ``keep`` is for how long they are kept."""
        with store_errors():
            return int(self._redis.zcount(keys.letters(), time.time() - _seconds(keep), "+inf"))


def _seconds(span: timedelta) -> float:
    return span.total_seconds()
