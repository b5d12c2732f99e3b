"""Holds for all workers: what is refused in one process shuts the gates of all, and so does opening.

What a call showed is told at once, what others found is read every second. While a gate with
somebody before it is shut, one worker of all is chosen every 15 s to let one call through; its
success releases the hold. What nobody tried for some minutes, nobody waits for: it is released too,
so that no hold outlives its run, or its key. An operator's hold is neither tried nor released here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from qaworker import logs
from qaworker.engine.gate import Gate, Gates, News
from qaworker.errors import HaltError, ModelRefused, StoreUnavailable
from qaworker.store.holds import Hold, account_scope, model_scope

log = logs.get(__name__)

LOOK_EVERY_S: Final = 1.0
# Many times as long as any worker with somebody waiting takes to try. If there still is a cause,
# the first calls after this are refused and hold again.
ABANDONED_AFTER_S: Final = 300.0


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

    def __init__(
        self,
        gates: Gates,
        holds: Holds,
        account: str,
        on_look: Callable[[Sequence[Hold]], None] = lambda _: None,
    ) -> None:
        """Begin with open gates.

        Args:
            gates: to keep.
            holds: that all workers share.
            account: whose holds shut the gates.
            on_look: told every hold there is.
        """
        self._gates = gates
        self._holds = holds
        self._account = account
        self._on_look = on_look
        self._last_changes: dict[Hold, float] = {}
        """When each hold, as it is, was found first, by the loop's clock."""

    async def run(self) -> None:
        """Look every second, and whenever there is news, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._gates.has_news.wait()
            if not await self.look():
                await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> bool:
        """Tell, read and try once; False when that failed, which a later look makes up for."""
        try:
            await self._look()
        except StoreUnavailable as error:  # nobody calls without Redis anyway
            log.warning("holds_not_read", error=str(error))
            return False
        except Exception:  # without this task a hold would last for ever here
            log.exception("holds_not_read")
            return False
        return True

    async def _look(self) -> None:
        self._gates.has_news.clear()
        for gate in self._gates:
            await self._tell(gate)
        holds = await self._holds.holds()
        self._on_look(holds)
        found = {hold.scope: hold for hold in holds}
        for scope in found:
            if model := self._model_of(scope):
                self._gates.of(model)
        for gate in self._gates:
            hold = found.get(self._scope(gate))
            # What was found may be older than a gate's news.
            if gate.news is None:
                _match(gate, hold)
        for gate in self._gates:
            await self._try(gate)
        await self._release_abandoned(holds)

    async def _tell(self, gate: Gate) -> None:
        news, error = gate.news, gate.halted_by
        if news is None or error is None:
            return
        if news is News.REFUSED:
            await self._holds.set_hold(self._scope(gate), error.reason, detail=_told(error))
        else:
            await self._holds.release(self._scope(gate))
        if gate.news is news:  # else there is some again
            gate.news = None

    async def _try(self, gate: Gate) -> None:
        if gate.halted_by is None or gate.news or not gate.waiting:
            return
        if await self._holds.next_probe(self._scope(gate)):
            log.info("probes", model=gate.model)
            gate.probe()

    async def _release_abandoned(self, holds: Sequence[Hold]) -> None:
        """Release what did not change for long: each try puts off the next one."""
        now = asyncio.get_running_loop().time()
        self._last_changes = {hold: self._last_changes.get(hold, now) for hold in holds}
        for hold, changed_at in self._last_changes.items():
            is_tried = hold.kind != "run" and not hold.is_operators
            if is_tried and now - changed_at > ABANDONED_AFTER_S:
                log.info("hold_abandoned", scope=hold.scope, reason=hold.reason)
                await self._holds.release(hold.scope)

    def _scope(self, gate: Gate) -> str:
        if gate.model is None:
            return account_scope(self._account)
        return model_scope(self._account, gate.model)

    def _model_of(self, scope: str) -> str:
        """The model whose hold this is, if it is one of this account."""
        kind, _, name = scope.partition(":")
        model = name.removesuffix(f"@{self._account}")
        return model if kind == "model" and model != name else ""


def _told(error: HaltError) -> str:
    """What others learn of it; whose model it is, as that run is to be corrected, or cancelled."""
    if isinstance(error, ModelRefused) and error.run_id:
        return f"asked by run {error.run_id}: {error}"
    return str(error)


def _match(gate: Gate, hold: Hold | None) -> None:
    if hold is None:
        gate.open()
    elif gate.halted_by is None:
        text = f"{hold.reason}: {hold.detail}" if hold.detail else hold.reason
        gate.shut(HaltError(text) if gate.model is None else ModelRefused(text))
