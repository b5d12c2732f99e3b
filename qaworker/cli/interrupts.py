"""What ends a command before its work is done, in order: Ctrl-C, TERM, and a terminal that is closed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from qaworker.errors import ExitCode

_STATUS_OF: Final = {
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HUNG_UP,
}


class Ended(KeyboardInterrupt):
    """A signal ends the command as Ctrl-C would, so that nothing treats it otherwise."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.number = number


@contextmanager
def heeded() -> Iterator[None]:
    """Raise :class:`Ended` once on a signal; a second one does not cut short what the first began.

    `timeout` signals its child twice, systemd all processes of a unit: only a second Ctrl-C, which
    a person gave, says that nobody wants to wait. What is ignored already (`nohup`) stays so.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        for other in before:
            signal.signal(other, signal.SIG_IGN)
        raise Ended(signal.Signals(number))

    before = {
        number: handler
        for number in _STATUS_OF
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def status_of(interrupt: BaseException | None) -> ExitCode:
    """The exit status of a command that was interrupted: 128 and the signal, as shells have it."""
    if isinstance(interrupt, Ended):
        return _STATUS_OF[interrupt.number]
    return ExitCode.INTERRUPTED
