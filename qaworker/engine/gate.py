"""The gates every call of a process passes: shut while every call would fail.

The account's gate is shut while the account is broken; then one call at a time goes through to try,
and its success opens the gate for all. Behind it each model has a gate of its own, so that a
mistyped name holds nobody else.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple, NewType

from qaworker import logs
from qaworker.errors import HaltError, ModelRefused

log = logs.get(__name__)

PROBE_INTERVAL_S = 15.0

Pass = NewType("Pass", int)
"""Tells whether a call was let through before or after the gate was shut."""


class Gate:
    """Open, or shut by an error; belongs to one event loop."""

    def __init__(
        self, *, guards: str = "account", probe_interval_s: float = PROBE_INTERVAL_S
    ) -> None:
        self._halted, self._released = f"{guards}_halted", f"{guards}_released"
        self._probe_interval_s = probe_interval_s
        self._probe_at_s = 0.0
        self._times_shut = Pass(0)
        self._opened = asyncio.Event()
        self.halted_by: HaltError | None = None

    async def pass_through(self) -> Pass:
        """Return when a call may be made; while shut, one caller in each interval is let through."""
        loop = asyncio.get_running_loop()
        while self.halted_by is not None and (wait_s := self._probe_at_s - loop.time()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._opened.wait()
        if self.halted_by is not None:
            self._probe_at_s = loop.time() + self._probe_interval_s
        return self._times_shut

    def honours(self, passed: Pass) -> bool:
        """Whether one that passed may still call: the gate has not closed since."""
        return passed == self._times_shut

    def shut(self, error: HaltError) -> None:
        """Stop calling: every call would fail."""
        if self.halted_by is None:
            log.error(self._halted, error=str(error), probe_every_s=self._probe_interval_s)
            self._probe_at_s = asyncio.get_running_loop().time() + self._probe_interval_s
            self._times_shut = Pass(self._times_shut + 1)
        self.halted_by = error

    def answered(self, passed: Pass) -> None:
        """Calls succeed, as one shows that was answered: open the gate if it was shut.

        One that went through before the gate was shut shows nothing.
        """
        if self.halted_by is not None and passed == self._times_shut:
            log.info(self._released, was=str(self.halted_by))
            self.halted_by = None
            self._opened.set()
            self._opened = asyncio.Event()


class Passes(NamedTuple):
    """What lets one call through both gates."""

    model_name: str
    model: Pass
    account: Pass


class Gates:
    """The account's gate, and one for each model asked."""

    def __init__(self, *, probe_interval_s: float = PROBE_INTERVAL_S) -> None:
        self._probe_interval_s = probe_interval_s
        self._account = Gate(probe_interval_s=probe_interval_s)
        self._models: dict[str, Gate] = {}

    @property
    def halted_by(self) -> HaltError | None:
        """Why somebody is held: the account's error before a model's."""
        errors = (gate.halted_by for gate in (self._account, *self._models.values()))
        return next((error for error in errors if error is not None), None)

    async def pass_through(self, model: str) -> Passes:
        """Return when a call to this model may be made; see :meth:`Gate.pass_through`."""
        while True:
            # The account last: a probe of it is not to wait for a model.
            passed = await self._of(model).pass_through()
            passes = Passes(model, passed, await self._account.pass_through())
            if self._of(model).honours(passed):
                return passes

    def honour(self, passes: Passes) -> bool:
        """Whether one that passed may still call."""
        model, account = self._of(passes.model_name), self._account
        return model.honours(passes.model) and account.honours(passes.account)

    def shut(self, error: HaltError, model: str) -> None:
        """Stop calling: this model, or any."""
        gate = self._of(model) if isinstance(error, ModelRefused) else self._account
        gate.shut(error)

    def answered(self, passes: Passes) -> None:
        """The account and the model work, as a call shows that was answered."""
        self._account.answered(passes.account)
        self._of(passes.model_name).answered(passes.model)

    def _of(self, model: str) -> Gate:
        if model not in self._models:
            self._models[model] = Gate(guards="model", probe_interval_s=self._probe_interval_s)
        return self._models[model]
