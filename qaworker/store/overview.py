"""What waits in the queues and what workers hold of it, read from Redis without asking a worker."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from qaworker import keys
from qaworker.redis_errors import store_errors

# KEYS[1] -> messages that workers hold (Hash)
# KEYS[2...] -> ready messages of the queues (List)
# ARGV[1] -> how many of these lists a queue has
# ARGV[2...] -> the queues' names
# Output: for each queue, how many are ready, how many are held, and when the oldest that is ready
#   was sent, in seconds since the epoch, empty where that is unknown
#
# Both ends of a list are looked at: the message that is next has waited longest, but for those that were
# handed back, which come last again.
#
# A message of ours has its queue in its tag. Somebody else's is JSON that ends with it; it may be
# large, so it is looked at here.
_QUEUES: Final = """
local function queue_of(tag)
  local queue = string.match(tag, "^([%w_]+):")
  if queue then return queue end
  local message = redis.call("HGET", KEYS[1], tag)
  return string.match(string.sub(message, -200), '"([^"]*)"%]$') or ""
end

local function sent_at(message)
  local mark = '"qaworker_sent_at":'
  local at = string.find(message, mark, 1, true)
  return at and tonumber(string.match(message, "^%s*([%d.]+)", at + #mark))
end

local held = {}
for _, tag in ipairs(redis.call("HKEYS", KEYS[1])) do
  local queue = queue_of(tag)
  held[queue] = (held[queue] or 0) + 1
end

local queues = {}
local lists = tonumber(ARGV[1])
for i = 2, #ARGV do
  local ready, oldest = 0, math.huge
  for list = (i - 2) * lists + 2, (i - 1) * lists + 1 do
    local length = redis.call("LLEN", KEYS[list])
    ready = ready + length
    if length > 0 then
      for _, place in ipairs({-1, 0}) do
        oldest = math.min(oldest, sent_at(redis.call("LINDEX", KEYS[list], place)) or math.huge)
      end
    end
  end
  local said = oldest < math.huge and string.format("%.3f", oldest) or ""
  table.insert(queues, {ready, held[ARGV[i]] or 0, said})
end
return queues
"""


@dataclass(frozen=True, slots=True)
class Queue:
    """What there is in one queue."""

    name: str
    ready: int
    """Messages that wait for a worker."""
    unacknowledged: int
    """Messages that a worker holds, or held when it was killed."""
    oldest_age_s: float | None
    """How long the one that waits longest has waited; None when none does, or it does not say."""


def queues(broker: Redis) -> list[Queue]:
    """Every queue, in the order workers consume them, in one round trip.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    lists = [keys.queue(name, step) for name in keys.QUEUES for step in keys.PRIORITY_STEPS]
    named = [keys.unacked(), *lists]
    with store_errors(), broker.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.eval(_QUEUES, len(named), *named, len(keys.PRIORITY_STEPS), *keys.QUEUES)
        (seconds, microseconds), counted = pipe.execute()
    now = seconds + microseconds / 1e6
    return [
        Queue(name, ready, held, max(0.0, now - float(sent_at)) if sent_at else None)
        for name, (ready, held, sent_at) in zip(keys.QUEUES, counted, strict=True)
    ]


def latency_ms(redis: Any) -> float:
    """How long Redis takes to answer, connected.

    Raises:
        StoreUnavailable: it does not answer.
    """
    with store_errors():
        redis.ping()
        asked_at = time.perf_counter()
        redis.ping()
    return (time.perf_counter() - asked_at) * 1000
