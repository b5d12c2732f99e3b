"""The gates every call of a process passes: shut while every call would fail.

The account's gate is shut while the account is broken or the provider is down. Behind it each model
has a gate of its own, so that a mistyped name holds nobody else. A call shuts its gate when it is
refused; all else is decided by the holds that all workers share, and :mod:`qaworker.engine.holding`
tells them what calls showed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple, NewType

from qaworker import logs
from qaworker.errors import HaltError, ModelRefused

log = logs.get(__name__)

Pass = NewType("Pass", int)
"""Tells which change of the gate a call was let through after."""


class News(Enum):
    """What a call showed that the other workers do not know."""

    REFUSED = auto()
    ANSWERED = auto()


class Gate:
    """Open, or shut by an error; belongs to one event loop."""

    def __init__(self, model: str | None = None, has_news: asyncio.Event | None = None) -> None:
        self.model = model
        """Whose it is; None for the account's."""
        self.waiting = 0
        self.halted_by: HaltError | None = None
        self.refused_by: HaltError | None = None
        """What a call of this process was refused with, while the gate is shut."""
        self.news: News | None = None
        self._has_news = has_news or asyncio.Event()
        self._changes = Pass(0)
        self._has_probe = False
        self._is_passable = asyncio.Event()

    async def pass_through(self) -> Pass:
        """Return when a call may be made."""
        while self.halted_by is not None:
            if self._has_probe:
                self._has_probe = False
                break
            self.waiting += 1
            try:
                await self._is_passable.wait()
            finally:
                self.waiting -= 1
        return self._changes

    def honours(self, passed: Pass) -> bool:
        """Whether one that passed may still call, and shows something: the gate has not changed since."""
        return passed == self._changes

    def refused(self, error: HaltError, passed: Pass) -> None:
        """A call was refused as any would be: shut the gate, and let all workers know."""
        if self.honours(passed):
            self.shut(error)
            self.refused_by = error
            self._tell(News.REFUSED)

    def answered(self, passed: Pass) -> None:
        """A call was answered: if the gate is shut, let all workers know that it need not be."""
        if self.halted_by is not None and self.honours(passed):
            self._tell(News.ANSWERED)

    def shut(self, error: HaltError) -> None:
        """Let nobody through; the latest error stays."""
        if self.halted_by is None:
            log.error("calls_held", model=self.model, error=str(error))
            self._changes = Pass(self._changes + 1)
        self.halted_by = error

    def open(self) -> None:
        """Let everybody through."""
        if self.halted_by is not None:
            log.info("calls_go_on", model=self.model, was=str(self.halted_by))
            self._changes = Pass(self._changes + 1)
            self.halted_by = self.refused_by = None
            self._has_probe = False
            self._wake()

    def probe(self) -> None:
        """Let one through, to try: who waits longest, or comes next."""
        self._has_probe = True
        self._wake()

    def _tell(self, news: News) -> None:
        self.news = news
        self._has_news.set()

    def _wake(self) -> None:
        self._is_passable.set()
        self._is_passable = asyncio.Event()


class Passes(NamedTuple):
    """What lets one call through both gates."""

    model_name: str
    model: Pass
    account: Pass


class Gates:
    """The account's gate, and one for each model asked."""

    def __init__(self) -> None:
        self.has_news = asyncio.Event()
        """Set when a gate has some."""
        self.account = Gate(None, self.has_news)
        self._models: dict[str, Gate] = {}

    def __iter__(self) -> Iterator[Gate]:
        """All of them, the account's first."""
        yield self.account
        # A copy: threads ask what is held.
        yield from tuple(self._models.values())

    @property
    def halted_by(self) -> HaltError | None:
        """Why somebody is held: the account's error before a model's."""
        errors = (gate.halted_by for gate in self)
        return next((error for error in errors if error is not None), None)

    @property
    def refused_by(self) -> HaltError | None:
        """What a call of this process was refused with, while that is held; likewise."""
        errors = (gate.refused_by for gate in self)
        return next((error for error in errors if error is not None), None)

    async def pass_through(self, model: str) -> Passes:
        """Return when a call to this model may be made; see :meth:`Gate.pass_through`."""
        while True:
            # The account last: a probe of it is not to wait for a model.
            passed = await self.of(model).pass_through()
            passes = Passes(model, passed, await self.account.pass_through())
            if self.of(model).honours(passed):
                return passes

    def honour(self, passes: Passes) -> bool:
        """Whether one that passed may still call, and shows something."""
        return self.of(passes.model_name).honours(passes.model) and self.account.honours(
            passes.account
        )

    def refused(self, error: HaltError, passes: Passes) -> None:
        """A call was refused as any to this model would be, or any at all."""
        if isinstance(error, ModelRefused):
            self.of(passes.model_name).refused(error, passes.model)
        else:
            self.account.refused(error, passes.account)

    def answered(self, passes: Passes) -> None:
        """The account and the model work, as a call shows that was answered."""
        self.account.answered(passes.account)
        self.of(passes.model_name).answered(passes.model)

    def of(self, model: str) -> Gate:
        """A model's."""
        if model not in self._models:
            self._models[model] = Gate(model, self.has_news)
        return self._models[model]
