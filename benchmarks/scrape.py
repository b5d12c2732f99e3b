"""Prints how long a scrape of the exporter takes, beside one broadcast that asks workers.

100,000 messages in four queues, 3,200 held by 50 workers, 20 models; medians. `inspect` asks the one
worker there is, which has nothing to do, and waits a second for more to answer, as Celery does by
default: it cannot know how many there are. `--scale 0.05` fills less and measures less often.
"""

from __future__ import annotations

import json
import statistics
import time
import urllib.request
from collections.abc import Callable

from redis import Redis

from benchmarks import harness
from benchmarks.harness import Stack
from qaworker import keys
from qaworker.app import app, broker_url
from qaworker.store import counters, fleet, heartbeats
from qaworker.store.counters import Counts
from qaworker.store.heartbeats import Beat
from tests.support.processes import QAWORKER
from tests.support.waiting import wait_until

READY = 100_000
HELD = 3_200
WORKERS = 50
MODELS = 20
SCRAPES = 100
BROADCASTS = 5
START_S = 30.0


def broadcasts_s(running: Stack, repeats: int) -> list[float]:
    """Seconds of rounds of `inspect active`, with one idle worker."""
    running.start_workers(1)
    app.conf.broker_url = broker_url(running.redis.url)
    inspect = app.control.inspect()

    def round_s() -> float:
        began = time.perf_counter()
        assert inspect.active(), "the worker answers"
        return time.perf_counter() - began

    taken = [round_s() for _ in range(repeats + 1)][1:]
    app.close()
    running.workers[0].terminate()
    running.workers[0].wait_exit(START_S)
    return taken


def fill(redis: Redis, scale: float) -> None:
    """Put in what a busy fleet has in Redis."""
    ready, held = round(READY * scale), round(HELD * scale)
    message = json.dumps(
        {"body": "x" * 500, "headers": {"qaworker_sent_at": time.time() - 60}, "properties": {}}
    )
    with redis.pipeline(transaction=False) as pipe:
        for queue in keys.QUEUES:
            pipe.lpush(keys.queue(queue), *[message] * (ready // len(keys.QUEUES)))
        queued = keys.QUEUES[1]
        pipe.hset(keys.unacked(), mapping={f"{queued}:{n}": message for n in range(held)})
        pipe.execute()
    for number in range(WORKERS):
        heartbeats.beat(redis, Beat(name=f"qa_worker-{number}@host", pid=1, memory_mib=100))
    fleet.expect(redis, "host", WORKERS)
    counts = Counts()
    for number in range(MODELS):
        model = f"model-{number}"
        counts.add(counters.REQUESTS, "ok", model)
        for kind in ("input", "cached_input", "output", "reasoning"):
            counts.add(counters.TOKENS, kind, model)
        for tenths in range(1300):
            counts.observe(counters.CALL, tenths / 10, model)
            counts.observe(counters.LIMITER_WAIT, tenths / 10, model)
    with redis.pipeline(transaction=False) as pipe:
        counts.take().add_to(pipe, "benchmark")
        pipe.execute()


def scrapes_s(running: Stack, repeats: int) -> tuple[list[float], int]:
    """Seconds of scrapes by HTTP, and how many lines one has."""
    exporter = running.start(*QAWORKER, "exporter", "--listen", "127.0.0.1:0", log="exporter.log")

    def port() -> int:
        exporter.check_alive()
        lines = [line for line in exporter.output.splitlines() if "exporter_serves" in line]
        return int(json.loads(lines[0])["port"]) if lines else 0

    url = f"http://127.0.0.1:{wait_until(port, START_S, 'the exporter')}/metrics"

    def get() -> bytes:
        with urllib.request.urlopen(url, timeout=START_S) as answer:
            return bytes(answer.read())

    text = get()
    assert b"qaworker_broker_up 1.0" in text
    return [seconds(get) for _ in range(repeats)], len(text.splitlines())


def seconds(work: Callable[[], object]) -> float:
    """That a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    scale = harness.arguments(__doc__).parse_args().scale
    with harness.stack() as running:
        asked = broadcasts_s(running, max(1, round(BROADCASTS * scale)))
        with running.redis.client() as redis:
            redis.flushall()
            fill(redis, scale)
        scraped, lines = scrapes_s(running, max(5, round(SCRAPES * scale)))
    harness.print_machine()
    print(f"{'':22}   median    most   ms")
    for name, times in (("scrape", scraped), ("inspect, one round", asked)):
        median, most = statistics.median(times) * 1000, max(times) * 1000
        print(f"{name:22}{median:9.1f}{most:8.1f}")
    ratio = statistics.median(asked) / statistics.median(scraped)
    print(f"{lines} lines; a scrape is {ratio:.0f} times faster")


if __name__ == "__main__":
    main()
