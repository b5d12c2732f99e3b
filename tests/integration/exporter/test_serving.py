"""The exporter over HTTP, on a Redis that fails in every way."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from redis import Redis

from qaworker import keys
from qaworker.errors import ConfigError, StoreUnavailable
from qaworker.exporter.families import MOST_WORKERS, families
from qaworker.exporter.looking import Looking
from qaworker.exporter.serving import Tls, serving
from qaworker.store import counters, heartbeats, holds
from qaworker.store.connections import connect
from qaworker.store.counters import MOST_MODELS, Counts
from qaworker.store.heartbeats import Beat
from tests.support.redis_server import RedisServer

HERE = ("127.0.0.1", 0)
TIMEOUT_S = 0.5
# A frozen Redis is noticed after one timeout; the rest is a slow machine.
NOTICED_S = 10 * TIMEOUT_S
KEEP = timedelta(days=30)

Get = Callable[..., tuple[int, str]]


@contextmanager
def looking_at(url: str, broker_url: str = "") -> Iterator[Looking]:
    with ExitStack() as stack:
        redis = stack.enter_context(connect(url, timeout_s=TIMEOUT_S))
        broker = (
            stack.enter_context(connect(broker_url, timeout_s=TIMEOUT_S)) if broker_url else redis
        )
        yield Looking(redis, broker, keep=KEEP)


@contextmanager
def exporter(url: str, broker_url: str = "") -> Iterator[Get]:
    """What a client gets at a path."""
    with looking_at(url, broker_url) as look, serving(HERE, look) as port:

        def get(path: str, **headers: str) -> tuple[int, str]:
            connection = HTTPConnection(HERE[0], port, timeout=30)
            try:
                connection.request("GET", path, headers=headers)
                response = connection.getresponse()
                return response.status, response.read().decode()
            finally:
                connection.close()

        yield get


def values(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def check_away(get: Get, why: str) -> None:
    """Redis is said to be away, soon, and nothing is said of it."""
    began_at_s = time.monotonic()
    code, text = get("/metrics")
    assert time.monotonic() - began_at_s < NOTICED_S
    assert code == 200
    shown = values(text)
    assert shown["qaworker_broker_up"] == 0
    assert {name.partition("{")[0] for name in shown if name.startswith("qaworker_")} == {
        "qaworker_broker_up",
        "qaworker_build_info",
        "qaworker_exporter_collect_duration_seconds",
        "qaworker_exporter_collect_errors_total",
    }
    code, text = get("/readyz")
    assert code == 503
    assert why in text
    assert len(text.splitlines()) == 1
    assert get("/healthz") == (200, "ok\n")


def check_there(get: Get) -> None:
    assert values(get("/metrics")[1])["qaworker_broker_up"] == 1
    assert get("/readyz") == (200, "ok\n")


def test_what_it_serves(redis_url: str, redis_client: Redis) -> None:
    heartbeats.beat(redis_client, Beat(name="qa_worker-1@a", pid=1, tasks=2))
    with exporter(redis_url) as get:
        code, text = get("/metrics")
        assert code == 200
        assert values(text)["qaworker_tasks_active"] == 2
        assert "process_resident_memory_bytes" in text
        code, text = get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert code == 200
        families_in: Any = text_string_to_metric_families
        names = {family.name for family in families_in(text)}
        assert {"qaworker_chunks", "qaworker_cost_dollars", "qaworker_build"} <= names
        assert get("/healthz") == (200, "ok\n")
        assert get("/readyz") == (200, "ok\n")
        assert get("/")[0] == get("/metrics/more")[0] == 404


def test_a_redis_that_is_always_late_is_given_up(redis_client: Redis) -> None:
    """Each answer comes before its connection gives up, all of them after Prometheus does."""
    took_s = itertools.count(0, 2)
    looks = Looking(redis_client, redis_client, keep=KEEP, clock=lambda: next(took_s))
    with pytest.raises(StoreUnavailable, match="within 5 s"):
        looks()


def test_a_redis_that_goes_and_comes_back(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with exporter(server.url) as get:
        check_there(get)
        server.kill()
        check_away(get, "Redis does not answer")
        server.start()
        check_there(get)


def test_a_redis_that_is_away_at_first(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    server.stop()
    with exporter(server.url) as get:
        check_away(get, "Redis does not answer")
        server.start()
        check_there(get)


def test_a_frozen_redis_is_not_waited_for(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with exporter(server.url) as get:
        check_there(get)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            check_away(get, "Redis does not answer")
        finally:
            os.kill(server.pid, signal.SIGCONT)
        check_there(get)


def test_a_redis_that_lets_nobody_in(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with server.client() as redis, exporter(server.url) as get:
        redis.config_set("requirepass", "secret")
        check_away(get, "Redis does not answer")
    with exporter(server.url.replace("unix://", "unix://:wrong@")) as get:
        check_away(get, "REDIS_URL")


def test_a_redis_without_memory_can_still_be_read(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    with server.client() as redis, exporter(server.url) as get:
        redis.config_set("maxmemory", "1")
        check_there(get)


@pytest.mark.parametrize(
    "key",
    [
        *(keys.counters(), keys.heartbeats(), keys.expected(), keys.holds(), keys.letters()),
        *(keys.limiters(), keys.queue("low_priority"), keys.unacked()),
    ],
)
def test_a_key_that_is_not_ours(redis_url: str, redis_client: Redis, key: str) -> None:
    redis_client.set(key, "not ours")
    with exporter(redis_url) as get:
        check_away(get, "Redis does not answer")
        redis_client.delete(key)
        check_there(get)


def test_a_value_that_is_not_ours(redis_url: str, redis_client: Redis) -> None:
    """One that a newer version wrote, as it were: all else is shown."""
    holds.set_hold(redis_client, "account@2", "lunch")
    redis_client.hset(keys.holds(), "account@1", "{}")
    redis_client.hset(keys.counters(), mapping={"chunks|ok": "many", "chunks|dead": 3})
    redis_client.zadd(keys.limiters(), {"a:m": time.time()})
    redis_client.hset(keys.limiter("a", "m"), "speed", "1")
    with exporter(redis_url) as get:
        check_there(get)
        shown = values(get("/metrics")[1])
    assert shown['qaworker_held{reason="operator"}'] == 1
    assert shown['qaworker_chunks_total{outcome="dead"}'] == 3


def test_the_queues_may_be_in_another_redis(
    redis_url: str, redis_client: Redis, start_redis: Callable[..., RedisServer]
) -> None:
    queues = start_redis()
    with queues.client() as broker, exporter(redis_url, queues.url) as get:
        broker.lpush(keys.queue("qa_generation"), "{}")
        redis_client.lpush(keys.queue("qa_generation"), "{}", "{}")
        ready = 'qaworker_queue_messages{queue="qa_generation",state="ready"}'
        assert values(get("/metrics")[1])[ready] == 1
        queues.kill()
        check_away(get, "CELERY_BROKER_URL")
        queues.start()
        check_there(get)


def test_the_number_of_series_is_bounded(redis_url: str, redis_client: Redis) -> None:
    """Whatever models, workers, holds and reasons there are."""
    counts = Counts()
    for number in range(3 * MOST_MODELS):
        model, strange = f"model-{number}", f"reason-{number}"
        for total in (counters.FAILURES, counters.RETRIES, counters.CHUNKS):
            counts.add(total, strange)
        counts.add(counters.REQUESTS, strange, model)
        counts.add(counters.REQUESTS, "ok", model)
        counts.add(counters.TOKENS, strange, model)
        counts.add(counters.MICRO_DOLLARS, model)
        counts.observe(counters.CALL, number, model)
        counts.observe(counters.LIMITER_WAIT, number, model)
        holds.set_hold(redis_client, f"run:{number}", strange, by="host:1")
    with redis_client.pipeline() as pipe:
        counts.take().add_to(pipe, "me")
        for number in range(MOST_WORKERS + 50):
            name = f"qa_worker-{number}@host"
            pipe.zadd(keys.heartbeats(), {name: time.time()})
            pipe.set(keys.worker(name), Beat(name=name, pid=1).model_dump_json())
        pipe.execute()
    with looking_at(redis_url) as look:
        found = list(families(look()))
    models = {
        sample.labels["model"]
        for family in found
        for sample in family.samples
        if "model" in sample.labels
    }
    assert len(models) == MOST_MODELS + 1
    series = sum(len(family.samples) for family in found)
    # Three of each worker; of each model two histograms and some counters; a hundred of the rest.
    assert series <= 3 * MOST_WORKERS + 50 * (MOST_MODELS + 1) + 100


@pytest.fixture
def certificates(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """Makes a self-signed certificate and its key."""
    if not (openssl := shutil.which("openssl")):
        pytest.skip("making a certificate needs openssl")

    def make(name: str) -> tuple[Path, Path]:
        certificate, key = tmp_path / f"{name}.crt", tmp_path / f"{name}.key"
        subprocess.run(
            [
                *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-nodes", "-days", "1", "-subj", f"/CN={name}"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", key, "-out", certificate),
            ],
            check=True,
            capture_output=True,
        )
        return certificate, key

    return make


def get_ready(port: int, context: ssl.SSLContext) -> int:
    connection = HTTPSConnection(HERE[0], port, timeout=30, context=context)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status
    finally:
        connection.close()


def test_tls_and_a_client_that_says_nothing(
    redis_url: str, certificates: Callable[[str], tuple[Path, Path]]
) -> None:
    certificate, key = certificates("server")
    trusting = ssl.create_default_context(cafile=str(certificate))
    with looking_at(redis_url) as look, serving(HERE, look, Tls(certificate, key)) as port:
        with socket.create_connection((HERE[0], port)):
            assert get_ready(port, trusting) == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            get_ready(port, ssl.create_default_context())


def test_clients_without_a_certificate_get_nothing(
    redis_url: str, certificates: Callable[[str], tuple[Path, Path]]
) -> None:
    certificate, key = certificates("server")
    client_certificate, client_key = certificates("client")
    tls = Tls(certificate, key, client_ca=client_certificate)
    with looking_at(redis_url) as look, serving(HERE, look, tls) as port:
        context = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(OSError, match=r"(?i)alert|reset|eof"):
            get_ready(port, context)
        context.load_cert_chain(client_certificate, client_key)
        assert get_ready(port, context) == 200


def test_files_that_are_no_certificate(
    redis_url: str, tmp_path: Path, certificates: Callable[[str], tuple[Path, Path]]
) -> None:
    certificate, key = certificates("server")
    wrong = {
        "gone: No such file": Tls(certificate, tmp_path / "gone"),
        "not a certificate and its key": Tls(certificate, certificate),
        "server.key: no certificates": Tls(certificate, key, client_ca=key),
    }
    for said, tls in wrong.items():
        with (
            looking_at(redis_url) as look,
            pytest.raises(ConfigError, match=said),
            serving(HERE, look, tls),
        ):
            pass


def test_a_port_that_is_taken(redis_url: str) -> None:
    with looking_at(redis_url) as look, socket.create_server(HERE) as taken:
        address = (HERE[0], taken.getsockname()[1])
        with pytest.raises(ConfigError, match="in use"), serving(address, look):
            pass
