"""Holds for all workers: what shuts a gate here shuts it everywhere, and what opens it opens all.

Holds are read every second. While a gate with somebody before it is shut, one worker of all is
chosen every 15 s to let one call through; its success releases the hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

from qaworker import logs
from qaworker.engine.gate import Gate, Gates
from qaworker.errors import HaltError, ModelRefused, StoreUnavailable
from qaworker.store.holds import Hold, account_scope, model_scope

log = logs.get(__name__)

LOOK_EVERY_S: Final = 1.0


class Holds(Protocol):
    """Where they are kept; :class:`qaworker.store.holds.WorkerHolds` in production."""

    async def set_hold(self, scope: str, reason: str, /, *, detail: str = "") -> bool:
        """Hold a scope; returns whether it was free."""

    async def release(self, scope: str, /) -> bool:
        """Release what a worker held."""

    async def holds(self) -> list[Hold]:
        """Every hold there is."""

    async def next_probe(self, scope: str, /) -> bool:
        """Whether this worker may try now."""


class Holding:
    """Keeps a process's gates as the holds are; belongs to one event loop."""

    def __init__(self, gates: Gates, holds: Holds, account: str) -> None:
        self._gates = gates
        self._holds = holds
        self._account = account

    async def run(self) -> None:
        """Look, tell and try, until cancelled."""
        while True:
            try:
                await self._look()
            except StoreUnavailable as error:  # nobody calls without Redis anyway
                log.warning("holds_not_read", error=str(error))
            except Exception:  # without this task a hold would last for ever here
                log.exception("holds_not_read")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        found = {hold.scope: hold for hold in await self._holds.holds()}
        for scope in found:
            if model := self._model_of(scope):
                self._gates.of(model)
        for gate in list(self._gates):
            await self._match(gate, found)

    async def _match(self, gate: Gate, found: Mapping[str, Hold]) -> None:
        scope = self._scope(gate)
        hold = found.get(scope)
        if gate.halted_by is None and gate.is_held:
            # A call was answered here.
            await self._holds.release(scope)
            gate.is_held = False
        elif gate.halted_by is not None and not gate.is_held:
            await self._holds.set_hold(scope, gate.halted_by.reason, detail=str(gate.halted_by))
            gate.is_held = True
        elif gate.halted_by is not None and hold is None:
            gate.is_held = False
            gate.open()
        elif gate.halted_by is None and hold is not None:
            gate.shut(_error(hold, gate), is_held=True)
        if gate.halted_by is not None and gate.waiting and await self._holds.next_probe(scope):
            gate.probe()

    def _scope(self, gate: Gate) -> str:
        if gate.model is None:
            return account_scope(self._account)
        return model_scope(self._account, gate.model)

    def _model_of(self, scope: str) -> str:
        """The model whose hold this is, if it is one of this account."""
        kind, _, name = scope.partition(":")
        model = name.removesuffix(f"@{self._account}")
        return model if kind == "model" and model != name else ""


def _error(hold: Hold, gate: Gate) -> HaltError:
    text = f"{hold.reason}: {hold.detail}" if hold.detail else hold.reason
    return HaltError(text) if gate.model is None else ModelRefused(text)
