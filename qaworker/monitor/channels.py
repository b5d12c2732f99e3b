"""Who is told: a mailbox through sendmail, Slack, or any webhook."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from email.message import EmailMessage
from gettext import gettext as _
from http.client import HTTPException
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from qaworker.monitor.incidents import Notice
from qaworker.status.spans import clock, spoken

SENDMAIL_TIMEOUT_S: Final = 15.0
HTTP_TIMEOUT_S: Final = 10.0
# Not on the PATH of a user, nor of cron.
_SENDMAIL_PATH: Final = "/usr/sbin:/usr/lib:/sbin"


class NotSent(Exception):
    """A channel did not take a message; says why, without the secret part of an address."""


@dataclass(frozen=True, slots=True)
class Message:
    """Some notices for one channel."""

    host: str
    notices: Sequence[Notice]

    @property
    def subject(self) -> str:
        """One line for all of them: the gravest that is open, or that all is over."""
        opened = [notice for notice in self.notices if notice.event == "opened"]
        if not opened:
            return _("[qaworker] {host}: recovered").format(host=self.host)
        first = min(opened, key=lambda notice: notice.severity != "critical")
        return f"[qaworker] {self.host}: {first.severity.upper()}: {' '.join(first.text.split())}"

    @property
    def text(self) -> str:
        """A line for each."""
        return "\n".join(_line(notice) for notice in self.notices)


def _line(notice: Notice) -> str:
    since = clock(notice.since)
    if notice.until is None:
        return _("{severity}: {text} (since {since})").format(
            severity=notice.severity.upper(), text=notice.text, since=since
        )
    return _("RECOVERED: {text} (since {since}, lasted {span})").format(
        text=notice.text, since=since, span=spoken(notice.until - notice.since)
    )


class Channel(Protocol):
    """Somebody to be told."""

    name: str
    """Tells it from the others, and is logged: without secrets."""

    def send(self, message: Message) -> None:
        """Hand the message over; raises NotSent."""


class Mail:
    """A mailbox, through the sendmail of this host."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.name = f"mail {address}"

    def send(self, message: Message) -> None:
        """Hand the message to sendmail, which takes it whole or not at all."""
        program = shutil.which("sendmail") or shutil.which("sendmail", path=_SENDMAIL_PATH)
        if program is None:
            raise NotSent(_("no sendmail here: install one (Debian: apt-get install msmtp-mta)"))
        mail = EmailMessage()
        try:
            mail["To"] = self._address
            mail["Subject"] = message.subject
            mail.set_content(message.text)
            done = subprocess.run(  # noqa: S603, found above
                # Recipients are in the message; a line with a dot does not end it.
                [program, "-t", "-oi"],
                input=mail.as_bytes(),
                capture_output=True,
                timeout=SENDMAIL_TIMEOUT_S,
                check=False,
            )
        except ValueError as error:  # no such address can be
            raise NotSent(f"{self._address!r}: {error}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotSent(f"{program}: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise NotSent(f"{program}: {said[-1] if said else f'exit code {done.returncode}'}")


class Slack:
    """A channel of Slack, or of what takes the same JSON (Mattermost, Rocket.Chat)."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = f"slack {shown(url)} {_mark(url)}"

    def send(self, message: Message) -> None:
        """Post it."""
        _post(self._url, {"text": f"[qaworker] {message.host}\n{message.text}"})


class Webhook:
    """Any server: it gets the notices as JSON."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.name = f"webhook {shown(url)} {_mark(url)}"

    def send(self, message: Message) -> None:
        """Post them."""
        notices = [asdict(notice) for notice in message.notices]
        _post(self._url, {"host": message.host, "text": message.text, "notices": notices})


def shown(url: str) -> str:
    """An address without what may be a secret: in webhooks that is the path."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/…"


def _mark(url: str) -> str:
    """Tells one address from another of the same host."""
    return hashlib.sha256(url.encode()).hexdigest()[:8]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would be followed by a GET without the message, and look like success."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none: it is an error then."""


def _post(url: str, body: object) -> None:
    request = urllib.request.Request(  # noqa: S310, the command admits http and https only
        url,
        data=json.dumps(body, ensure_ascii=False).encode(),
        headers={"Content-Type": "application/json; charset=utf-8"},
    )
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=HTTP_TIMEOUT_S):
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise NotSent(f"{shown(url)}: {error.code} {error.reason}") from error
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NotSent(f"{shown(url)}: {reason}") from error
