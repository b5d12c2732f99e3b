"""Tells everybody at the same time, and waits for none of them for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from gettext import gettext as _
from typing import Final

from qaworker import logs
from qaworker.monitor.channels import Channel, Message, NotSent
from qaworker.monitor.incidents import Record

log = logs.get(__name__)

LONGEST_S: Final = 20.0
"""For all of them: the time limit of a connection is one for each of its packets."""


def tell(
    record: Record,
    channels: Sequence[Channel],
    host: str,
    remember: Callable[[], None],
    timeout_s: float = LONGEST_S,
) -> list[str]:
    """Tell each channel what it does not know; what it did not take it is told at the next look.

    Args:
        record: what each was told; it is brought up to date.
        channels: who is told.
        host: whom it is about.
        remember: writes the record; called after each that was told.
        timeout_s: what is not sent by then does not count as told.

    Returns:
        For each that was not told, why.
    """
    owed = {channel: record.owed(channel.name) for channel in channels}
    sendings = {
        _send(channel, Message(host, notices)): channel
        for channel, notices in owed.items()
        if notices
    }
    troubles = []
    try:
        for sending in as_completed(sendings, timeout_s):
            channel = sendings.pop(sending)
            try:
                sending.result()
            except NotSent as error:
                troubles.append(_not_told(channel, str(error)))
            else:
                log.info("notice_sent", channel=channel.name, notices=len(owed[channel]))
                record.note_told(channel.name, owed[channel])
                remember()
    except TimeoutError:
        text = _("{channel}: no answer within {timeout_s:g} s")
        for channel in sendings.values():
            reason = text.format(channel=channel.name, timeout_s=timeout_s)
            troubles.append(_not_told(channel, reason))
    return troubles


def _not_told(channel: Channel, reason: str) -> str:
    log.error("notice_not_sent", channel=channel.name, error=reason)
    return _("nobody was told: {error}").format(error=reason)


def _send(channel: Channel, message: Message) -> Future[None]:
    sending: Future[None] = Future()

    def send() -> None:
        try:
            channel.send(message)
        except Exception as error:  # noqa: BLE001, whoever waits for it gets it
            sending.set_exception(error)
        else:
            sending.set_result(None)

    # Not of a pool, for whose threads a process waits before it ends.
    threading.Thread(target=send, daemon=True).start()
    return sending
