"""Hosts the engine's event loop in a thread, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager

from qaworker.engine.batches import Batch
from qaworker.engine.engine import Engine
from qaworker.errors import HaltError
from qaworker.models import Outcome


class EngineThread:
    """An engine on a loop of its own; every method may be called from any thread."""

    def __init__(self, open_engine: Callable[[], AbstractAsyncContextManager[Engine]]) -> None:
        self._open_engine = open_engine
        self._opened: Future[Engine] = Future()
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._host, name="engine", daemon=True)
        self.answered_at = time.monotonic()
        """When the loop last answered :meth:`ping`."""

    def start(self) -> None:
        """Return when the engine is ready, or raise what prevented it."""
        self._thread.start()
        self._opened.result()

    def submit(self, batch: Batch) -> Future[dict[str, Outcome]]:
        """Begin a batch; see :meth:`Engine.process`."""
        return asyncio.run_coroutine_threadsafe(self._engine.process(batch), self._loop)

    def drain(self) -> None:
        """See :meth:`Engine.drain`."""
        self._loop.call_soon_threadsafe(self._engine.drain)

    def give_back(self) -> None:
        """See :meth:`Engine.give_back`."""
        self._loop.call_soon_threadsafe(self._engine.give_back)

    def ping(self) -> None:
        """Let the loop show that it turns; it answers in ``answered_at``."""
        self._loop.call_soon_threadsafe(self._pong)

    def close(self) -> None:
        """End the loop; batches under way are cancelled, so drain and wait for them first."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join()

    @property
    def admits(self) -> bool:
        """See :attr:`Engine.admits`."""
        return self._engine.admits

    def is_held(self, run_id: str) -> bool:
        """Whether nobody is to call for a run; what has no outcome is left to its client."""
        return run_id in self._engine.held_runs

    @property
    def calls_in_flight(self) -> int:
        """Calls on the wire now."""
        return self._engine.calls_in_flight

    @property
    def calls_waiting(self) -> int:
        """See :attr:`Engine.calls_waiting`."""
        return self._engine.calls_waiting

    @property
    def oldest_wait_s(self) -> float:
        """See :attr:`Engine.oldest_wait_s`."""
        return self._engine.oldest_wait_s

    @property
    def chunks_done(self) -> int:
        """Outcomes this process has written."""
        return self._engine.chunks_done

    @property
    def halted_by(self) -> HaltError | None:
        """Why nobody calls, while the account is broken."""
        return self._engine.halted_by

    @property
    def refused_by(self) -> HaltError | None:
        """See :attr:`Engine.refused_by`."""
        return self._engine.refused_by

    @property
    def _engine(self) -> Engine:
        return self._opened.result()

    def _pong(self) -> None:
        self.answered_at = time.monotonic()

    def _host(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            async with self._open_engine() as engine:
                self._opened.set_result(engine)
                await self._closing.wait()
        except BaseException as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)
