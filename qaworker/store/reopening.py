"""Opens dead chunks again: what a run spent and learnt of them is forgotten, and its client told."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

from qaworker import keys
from qaworker.redis_errors import store_errors
from qaworker.store.outcomes import decode

# KEYS[1] -> an outcome (String)
# ARGV[1] -> what it was
# Output: 1 when it was that still and is removed, else 0
_FORGET: Final = """
return redis.call("GET", KEYS[1]) == ARGV[1] and redis.call("DEL", KEYS[1]) or 0
"""


def reopen(
    redis: Any, run_id: str, digests: Sequence[str], *, marked_at: float, keep: timedelta
) -> None:
    """Forget the dead outcomes of a run, and let its client await new ones.

    An outcome that is no longer this run's dead one stays: it is the answer, or another run's.

    Args:
        redis: of the outcomes.
        run_id: the run that found the chunks dead.
        digests: of these chunks.
        marked_at: when their messages are sent, in seconds since the epoch; 0 when none are.
        keep: for how long the client may be away.

    Raises:
        StoreUnavailable: Redis does not answer; the same again goes on.
    """
    names = [keys.outcome(digest) for digest in digests]
    with store_errors():
        blobs = redis.mget(names)
    with store_errors(), redis.pipeline(transaction=True) as pipe:
        for name, blob in zip(names, blobs, strict=True):
            outcome = decode(blob)
            if outcome is not None and outcome.kind == "dead" and outcome.run_id == run_id:
                pipe.eval(_FORGET, 1, name, blob)
        pipe.delete(*[keys.spent(run_id, digest) for digest in digests])
        pipe.hset(keys.requeued(run_id), mapping=dict.fromkeys(digests, repr(marked_at)))
        pipe.expire(keys.requeued(run_id), keep)
        pipe.execute()
