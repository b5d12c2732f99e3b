"""The gates every call of a process passes: shut while every call would fail.

The account's gate is shut while the account is broken or the provider is down. Behind it each model
has a gate of its own, so that a mistyped name holds nobody else. What shuts a gate here is a hold for
all workers, and theirs shut it here: see :mod:`qaworker.engine.holding`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple, NewType

from qaworker import logs
from qaworker.errors import HaltError, ModelRefused

log = logs.get(__name__)

Pass = NewType("Pass", int)
"""Tells whether a call was let through before or after the gate was shut."""


class Gate:
    """Open, or shut by an error; belongs to one event loop."""

    def __init__(self, model: str | None = None) -> None:
        self.model = model
        """Whose it is; None for the account's."""
        self.waiting = 0
        self.halted_by: HaltError | None = None
        self.is_held = False
        """Whether all workers know, or knew, that it is shut."""
        self._times_shut = Pass(0)
        self._probes = 0
        self._changed = asyncio.Event()

    async def pass_through(self) -> Pass:
        """Return when a call may be made."""
        while self.halted_by is not None:
            if self._probes:
                self._probes -= 1
                break
            self.waiting += 1
            try:
                await self._changed.wait()
            finally:
                self.waiting -= 1
        return self._times_shut

    def honours(self, passed: Pass) -> bool:
        """Whether one that passed may still call: the gate has not been shut since."""
        return passed == self._times_shut

    def shut(self, error: HaltError, *, is_held: bool = False) -> None:
        """Stop calling: every call would fail.

        Args:
            error: says why; the latest one stays.
            is_held: all workers know already.
        """
        if self.halted_by is None:
            log.error("calls_held", model=self.model, error=str(error))
            self._times_shut = Pass(self._times_shut + 1)
            self._probes = 0
            self.is_held = False
        self.is_held = self.is_held or is_held
        self.halted_by = error

    def probe(self) -> None:
        """Let one of those who wait through, to try."""
        self._probes = 1
        self._wake()

    def open(self) -> None:
        """Let everybody through."""
        if self.halted_by is not None:
            log.info("calls_go_on", model=self.model, was=str(self.halted_by))
            self.halted_by = None
            self._wake()

    def answered(self, passed: Pass) -> None:
        """Calls succeed, as one shows that was answered: open the gate if it was shut.

        One that went through before the gate was shut shows nothing.
        """
        if self.halted_by is not None and self.honours(passed):
            self.open()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Passes(NamedTuple):
    """What lets one call through both gates."""

    model_name: str
    model: Pass
    account: Pass


class Gates:
    """The account's gate, and one for each model asked."""

    def __init__(self) -> None:
        self.account = Gate()
        self._models: dict[str, Gate] = {}

    def __iter__(self) -> Iterator[Gate]:
        """All of them, the account's first."""
        yield self.account
        yield from self._models.values()

    @property
    def halted_by(self) -> HaltError | None:
        """Why somebody is held: the account's error before a model's."""
        errors = (gate.halted_by for gate in self)
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
        """Whether one that passed may still call."""
        return self.of(passes.model_name).honours(passes.model) and self.account.honours(
            passes.account
        )

    def shut(self, error: HaltError, model: str) -> None:
        """Stop calling: this model, or any."""
        gate = self.of(model) if isinstance(error, ModelRefused) else self.account
        gate.shut(error)

    def answered(self, passes: Passes) -> None:
        """The account and the model work, as a call shows that was answered."""
        self.account.answered(passes.account)
        self.of(passes.model_name).answered(passes.model)

    def of(self, model: str) -> Gate:
        """A model's."""
        if model not in self._models:
            self._models[model] = Gate(model)
        return self._models[model]
