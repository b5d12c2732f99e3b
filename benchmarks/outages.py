"""What two workers make of a Redis, a provider and an account that fail: cases of `limits.py`."""

from __future__ import annotations

import time

from benchmarks import harness, runs
from benchmarks.harness import Stack
from benchmarks.report import Figure
from qaworker import keys
from tests.support.processes import QAWORKER
from tests.support.waiting import wait_until

RPM = 3500
RATE = ("--rpm", str(RPM), "--latency", "1")
TOLD = {"QAWORKER_RPM": str(RPM)}
LEAST_CHUNKS = 240
HOLD_S = 60.0


def redis_away(scale: float) -> list[Figure]:
    """Stop the Redis of queue and limiter in the middle of a run, for 20 s."""
    away_s = max(2.0, 20 * scale)
    chunks = max(LEAST_CHUNKS, int(2000 * scale))
    with harness.stack(*RATE, keeps_data=True) as running:
        client = runs.begin(running, chunks, **TOLD)
        running.wait_for_calls(client, chunks // 4)
        begun = _requests(running)
        running.redis.stop()
        # What was granted before may begin within 0.3 s.
        time.sleep(1)
        granted = _requests(running)
        time.sleep(away_s - 1)
        meanwhile = _requests(running) - granted
        running.redis.start()
        return [
            Figure("calls begun in the first second of it", granted - begun),
            Figure("calls begun later", meanwhile, most=0),
            *runs.completion(running, client, chunks),
        ]


def provider_down(scale: float) -> list[Figure]:
    """Answer nothing but 503 for three minutes."""
    down_s = 180 * scale
    chunks = max(LEAST_CHUNKS, int(3000 * scale))
    with harness.stack(*RATE) as running:
        client = runs.begin(running, chunks, **TOLD)
        running.wait_for_calls(client, chunks // 4)
        running.simulator.set_faults(**{"503": 1})
        down_at = time.monotonic()
        wait_until(lambda: runs.held(running), HOLD_S, "the hold")
        held_s = time.monotonic() - down_at
        time.sleep(max(0.0, down_s - held_s))
        answered, failed = _answers(running, "200"), _answers(running, "503")
        running.simulator.set_faults()
        up_at = time.monotonic()
        # The first is the probe.
        wait_until(lambda: _answers(running, "200") > answered + 1, HOLD_S, "calls to go on")
        goes_on_s = time.monotonic() - up_at
        figures = runs.completion(running, client, chunks)
        return [
            Figure("seconds until the account is held", held_s, form=".1f"),
            Figure("calls answered with 503", failed),
            Figure("seconds until calls go on", goes_on_s, most=20, form=".1f"),
            Figure("dead letters", _letters(running), most=0),
            *figures,
        ]


def no_quota(scale: float) -> list[Figure]:
    """Let the quota end in the middle of a run, and release the hold by hand."""
    chunks = max(LEAST_CHUNKS, int(3000 * scale))
    with harness.stack(*RATE) as running:
        client = runs.begin(running, chunks, **TOLD)
        running.wait_for_calls(client, chunks // 2)
        in_flight = running.simulator.stats()["in_flight"]
        running.simulator.set_faults(quota=1)
        ended_at = time.monotonic()
        wait_until(lambda: runs.held(running), HOLD_S, "the hold")
        held_s = time.monotonic() - ended_at
        # Less than the 15 s until somebody tries.
        time.sleep(max(2.0, 10 * scale))
        refused = _answers(running, "429")
        running.simulator.set_faults()
        release = running.start(*QAWORKER, "hold", "release", "account", log="release.log")
        assert release.wait_exit(HOLD_S) == 0, release.output
        figures = runs.completion(running, client, chunks)
        return [
            Figure("seconds until the account is held", held_s, most=5, form=".1f"),
            Figure("calls refused, of as many in flight", refused, most=in_flight),
            Figure("dead letters", _letters(running), most=0),
            *figures,
        ]


def _requests(running: Stack) -> int:
    return int(running.simulator.stats()["requests"])


def _answers(running: Stack, status: str) -> int:
    return int(running.simulator.stats()["answers"].get(status, 0))


def _letters(running: Stack) -> int:
    with running.redis.client() as redis:
        return int(redis.zcard(keys.letters()))
