"""One look after the other, on a real Redis; people are a webhook and a sendmail of the test's own."""

from __future__ import annotations

import email
import email.policy
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from qaworker.errors import Busy, OwnerError
from qaworker.monitor import incidents
from qaworker.monitor.channels import Channel, Mail, Message, Slack, Webhook
from qaworker.monitor.judging import CHECKS, Limits
from qaworker.monitor.looking import LOCK_NAME, RECORD_NAME, Report, look
from qaworker.owners import choosing, memory
from qaworker.owners.lock import locked
from qaworker.settings import Settings
from qaworker.status import gathering
from qaworker.status.picture import Status
from qaworker.store import fleet, heartbeats
from qaworker.store.heartbeats import Beat
from qaworker.store.holds import release, set_hold
from tests.support.webhooks import WebhookServer

HOST = socket.gethostname()
ALIVE = Beat(
    name=f"qa_worker-1@{HOST}",
    number=1,
    host=HOST,
    pid=1,
    pool="threads",
    started_at=0.0,
    calls_in_flight=0,
    chunks_done=0,
)


@pytest.fixture
def values(redis_url: str, tmp_path: Path) -> Settings:
    return Settings(
        redis_url=redis_url,
        broker_url="",
        runtime_dir=tmp_path / "run",
        log_dir=tmp_path / "log",
    )


@pytest.fixture
def server() -> Iterator[WebhookServer]:
    with WebhookServer() as server:
        yield server


@pytest.fixture
def mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on PATH whose sendmail leaves its input and its arguments there."""
    directory = tmp_path / "sendmail"
    directory.mkdir()
    program = directory / "sendmail"
    program.write_text(f'#!/bin/sh\necho "$@" >{directory}/arguments\ncat >>{directory}/mail\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")
    return directory


def looked(values: Settings, *channels: Channel, heal: bool = False) -> Report:
    return look(values, Limits(), frozenset(CHECKS), channels, heal=heal)


def test_each_channel_is_told_once_and_when_it_is_over(
    values: Settings, redis_client: Redis, server: WebhookServer, mailbox: Path
) -> None:
    channels: list[Channel] = [
        Mail("ops@example.org"),
        Slack(f"{server.url}/slack"),
        Webhook(f"{server.url}/hook"),
    ]
    for _ in range(2):
        report = looked(values, *channels)
        assert report.line == "QAWORKER CRITICAL: no worker lives, messages waiting: 0"
        assert (report.code, list(report.troubles)) == (2, [])
    # All are told at the same time.
    to_slack, to_webhook = sorted(server.taken, key=lambda told: "host" in told)
    assert to_slack["text"].startswith(f"[qaworker] {HOST}\nCRITICAL: no worker lives")
    assert to_slack["text"].count("no worker lives") == 1
    assert to_webhook["host"] == HOST
    [notice] = to_webhook["notices"]
    assert (notice["check"], notice["event"], notice["until"]) == ("workers", "opened", None)
    mail = email.message_from_bytes((mailbox / "mail").read_bytes(), policy=email.policy.default)
    assert mail["To"] == "ops@example.org"
    assert mail["Subject"] == f"[qaworker] {HOST}: CRITICAL: no worker lives, messages waiting: 0"

    (mailbox / "mail").unlink()
    heartbeats.beat(redis_client, ALIVE)
    for _ in range(2):
        report = looked(values, *channels)
        assert report.line == "QAWORKER OK: workers consuming: 1, messages waiting: 0"
    assert [told["text"].count("RECOVERED") for told in server.taken[2:]] == [1, 1]
    assert "lasted 0 s" in server.taken[2]["text"]
    assert "Subject: [qaworker]" in (mailbox / "mail").read_text(encoding="ascii")


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_a_webhook_that_refuses_is_tried_at_the_next_look(
    values: Settings, server: WebhookServer, answer: int
) -> None:
    webhook = Webhook(f"{server.url}/hook/secret")
    server.answer = answer
    report = looked(values, webhook)
    assert report.code == 2
    [trouble] = report.troubles
    assert str(answer) in trouble
    assert "secret" not in trouble
    server.answer = 200
    for _ in range(2):
        assert list(looked(values, webhook).troubles) == []
    assert len(server.taken) == 1


def test_two_webhooks_of_one_host_are_told_apart(values: Settings, server: WebhookServer) -> None:
    looked(values, Webhook(f"{server.url}/one"), Webhook(f"{server.url}/two"))
    assert len(server.taken) == 2


@pytest.mark.parametrize(
    ("script", "words"),
    [(None, "msmtp-mta"), ("echo 'no such user' >&2; exit 67", "no such user")],
    ids=["no sendmail", "it refuses"],
)
def test_mail_that_cannot_be_sent_is_one_line(
    values: Settings,
    mailbox: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str | None,
    words: str,
) -> None:
    monkeypatch.setattr("qaworker.monitor.channels._SENDMAIL_PATH", "")
    monkeypatch.setenv("PATH", str(mailbox))
    if script is None:
        (mailbox / "sendmail").unlink()
    else:
        (mailbox / "sendmail").write_text(f"#!/bin/sh\n{script}\n")
    [trouble] = looked(values, Mail("ops@example.org")).troubles
    assert words in trouble
    assert "\n" not in trouble


def test_a_frozen_queue_is_not_over_because_redis_is_away(
    values: Settings, redis_client: Any, server: WebhookServer, tmp_path: Path
) -> None:
    heartbeats.beat(redis_client, ALIVE)
    redis_client.rpush("qaw:qa_generation", *["message"] * 101)
    webhook = Webhook(server.url)
    assert looked(values, webhook).code == 1
    away = values.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"})
    assert looked(away, webhook).code == 2
    assert looked(values, webhook).code == 1
    told = [(n["check"], n["event"]) for post in server.taken for n in post["notices"]]
    assert told == [("queue-length", "opened"), ("redis", "opened"), ("redis", "recovered")]


def test_a_held_account_is_told_once_and_when_it_is_released(
    values: Settings, redis_client: Redis, server: WebhookServer
) -> None:
    heartbeats.beat(redis_client, ALIVE.model_copy(update={"account": "1a2b3c4d"}))
    set_hold(redis_client, "account@1a2b3c4d", "halted", detail="no quota", by="host:1")
    webhook = Webhook(server.url)
    for _ in range(2):
        assert looked(values, webhook).code == 2
    release(redis_client, "account@1a2b3c4d")
    for _ in range(2):
        assert looked(values, webhook).code == 0
    told = [(n["check"], n["event"]) for post in server.taken for n in post["notices"]]
    assert told == [("held", "opened"), ("held", "recovered")]
    assert "no quota" in server.taken[0]["text"]


def test_where_nothing_can_be_looked_at_it_is_unknown(values: Settings, tmp_path: Path) -> None:
    away = values.model_copy(update={"redis_url": f"unix://{tmp_path}/no.sock"})
    report = look(away, Limits(), frozenset({"queue-length"}), (), heal=False)
    assert report.code == 3
    assert report.line.startswith("QAWORKER UNKNOWN: ")


def test_one_look_at_a_time(values: Settings) -> None:
    with locked(values.runtime_dir, "monitor", LOCK_NAME), pytest.raises(Busy):
        looked(values)


class Starter:
    """An owner whose workers end as soon as they are started."""

    def __init__(self, error: OwnerError | None = None) -> None:
        self.started: list[int] = []
        self._error = error

    def start(self, workers: int, log_level: str | None) -> None:
        assert log_level is None
        self.started.append(workers)
        if self._error:
            raise self._error


def use(monkeypatch: pytest.MonkeyPatch, owner: Starter) -> Starter:
    monkeypatch.setattr(choosing, "choose", lambda *_: owner)
    return owner


def test_healing_starts_as_many_as_are_wanted_and_gives_up(
    values: Settings, redis_client: Redis, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.expect(redis_client, HOST, 3)
    owner = use(monkeypatch, Starter())
    reports = [looked(values, Webhook(server.url), heal=True) for _ in range(5)]
    assert owner.started == [3, 3, 3]
    assert ["starting workers: 3" in report.text for report in reports] == [True] * 3 + [False] * 2
    told = [notice["check"] for post in server.taken for notice in post["notices"]]
    assert told == ["workers", "expected", "healing"]

    heartbeats.beat(redis_client, ALIVE)
    looked(values, Webhook(server.url), heal=True)
    recovered = [n["check"] for n in server.taken[-1]["notices"] if n["event"] == "recovered"]
    assert sorted(recovered) == ["healing", "workers"]


@pytest.mark.parametrize("wanted", [None, 0])
def test_nothing_is_started_that_nobody_wants(
    values: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch, wanted: int | None
) -> None:
    if wanted is not None:
        fleet.expect(redis_client, HOST, wanted)
    owner = use(monkeypatch, Starter())
    looked(values, heal=True)
    assert owner.started == []


def test_a_look_tells_redis_of_a_stop_that_it_missed(
    values: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.expect(redis_client, HOST, 3)
    memory.keep_stop(values.runtime_dir, is_untold=True)
    owner = use(monkeypatch, Starter())
    looked(values, heal=True)
    assert owner.started == []
    assert fleet.expected(redis_client) == {HOST: 0}


def test_nothing_is_started_unasked(
    values: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.expect(redis_client, HOST, 3)
    owner = use(monkeypatch, Starter())
    looked(values)
    assert owner.started == []


def test_an_owner_that_cannot_start_them_is_one_line(
    values: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.expect(redis_client, HOST, 3)
    use(monkeypatch, Starter(OwnerError("use sudo")))
    troubles: Sequence[str] = looked(values, heal=True).troubles
    assert list(troubles) == ["the workers were not started: use sudo"]


@pytest.mark.parametrize(("wanted", "started"), [(0, []), (2, [2])], ids=["stopped", "scaled"])
def test_what_somebody_did_since_the_look_holds(
    values: Settings,
    redis_client: Redis,
    monkeypatch: pytest.MonkeyPatch,
    wanted: int,
    started: list[int],
) -> None:
    fleet.expect(redis_client, HOST, 3)
    owner = use(monkeypatch, Starter())
    gather = gathering.gather

    def gather_before_the_stop(values: Settings) -> Status:
        seen = gather(values)
        fleet.expect(redis_client, HOST, wanted)
        return seen

    monkeypatch.setattr(gathering, "gather", gather_before_the_stop)
    report = looked(values, heal=True)
    assert owner.started == started
    assert len(incidents.read(values.runtime_dir / RECORD_NAME).starts) == len(started)
    assert ("starting workers: 2" in report.text) is bool(started)


def test_nothing_is_started_beside_a_start_or_stop(
    values: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.expect(redis_client, HOST, 3)
    owner = use(monkeypatch, Starter())
    with locked(values.runtime_dir, "stop"):
        [trouble] = looked(values, heal=True).troubles
    assert "stop, process" in trouble
    assert owner.started == []


def test_when_people_are_told_the_start_is_tried_and_everything_remembered(
    values: Settings, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told slowly, or ends this process, costs neither."""
    fleet.expect(redis_client, HOST, 3)
    owner = use(monkeypatch, Starter())
    records: list[incidents.Record] = []

    class Witness:
        name = "witness"

        def send(self, _message: Message) -> None:
            assert owner.started == [3]
            records.append(incidents.read(values.runtime_dir / RECORD_NAME))

    looked(values, Witness(), heal=True)
    [record] = records
    assert len(record.starts) == 1
    assert "workers" in record.incidents


def test_people_are_told_of_a_disk_that_is_full(
    values: Settings, server: WebhookServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: object) -> None:
        raise OwnerError("no space left")

    monkeypatch.setattr(incidents, "write", write)
    with pytest.raises(OwnerError):
        looked(values, Webhook(server.url))
    assert len(server.taken) == 1
