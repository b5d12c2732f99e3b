"""The two Celery tasks, and what a worker process does when it starts and stops."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final

import structlog
from celery import Task, signals
from celery.apps.worker import install_worker_term_handler
from celery.exceptions import Reject, TaskPredicate
from celery.worker import request

from qaworker import heart, logs, runtime, settings
from qaworker.app import BUDGET_HEADER, RUN_HEADER, SENT_HEADER, app
from qaworker.consumer import pulse
from qaworker.engine.batches import parse_batch
from qaworker.errors import ConfigError, MessageInvalid, StoreUnavailable
from qaworker.holdings import holdings
from qaworker.store.connections import connect
from qaworker.store.outcomes import OutcomeReader
from qaworker.store.task_notes import TaskNote, TaskNotes

log = logs.get(__name__)

HAND_BACK_S: Final = 1.0


class Request(request.Request):  # type: ignore[misc]  # celery has no types
    """A task as the process with the connection sees it, under either pool."""

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """The pool begins with it."""
        holdings.begin(self)
        super().on_accepted(pid, time_accepted)

    def acknowledge(self) -> None:
        """It ended."""
        super().acknowledge()
        holdings.finish(self)

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002, Celery's
        """Its message goes back to the queue, as all are that are rejected here."""
        super().reject(requeue=requeue)
        holdings.hand_back(self)

    # Its arguments, which ``inspect`` would show, are megabytes of text.
    def info(self, safe: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002, ARG002, Celery's
        """What ``inspect active`` and ``reserved`` tell."""
        described: dict[str, Any] = super().info(safe=True)
        return described


class ChunkTask(Task):  # type: ignore[misc]  # celery has no types
    """A task whose exceptions cannot take the worker process down."""

    abstract = True
    Request = "qaworker.tasks:Request"
    # The sender's mistake: one line in the log, no traceback.
    throws = (MessageInvalid,)

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send the task; logs and ``inspect`` show no arguments, which are full of text.

        Celery does not say when a message was sent, and the queue's age is read from it.
        """
        headers = {SENT_HEADER: time.time()} | (kwargs.pop("headers", None) or {})
        shown = {"argsrepr": "(…)", "kwargsrepr": "{…}", "headers": headers}
        return super().apply_async(*args, **shown | kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; its message goes back to the queue when memory, Redis or a setting is missing.

        Celery ends a worker's main process on a MemoryError that a task raised. Settings are right
        when a worker starts; a child of a prefork pool, which comes later, may find a file changed.
        """
        try:
            with _failures_noted(self):
                return super().__call__(*args, **kwargs)
        except (MemoryError, StoreUnavailable, ConfigError) as error:
            log.warning("task_handed_back", error=str(error) or type(error).__name__)
            # It comes again at once, and what is missing is not there sooner.
            time.sleep(HAND_BACK_S)
            raise Reject(error, requeue=True) from error


def _run_id(task: Task) -> str:
    return str((task.request.headers or {}).get(RUN_HEADER) or task.request.id)


def _waited_s(sent_at: object) -> float | None:
    """Since a message was sent; None for one that another program sent, without its time."""
    return time.time() - sent_at if isinstance(sent_at, int | float) else None


def _is_cancelled(running: runtime.Runtime, headers: Mapping[str, Any]) -> bool:
    """Whether the run of a message was cancelled since its client sent it.

    What was sent without a run has no ledger, and is not given up.
    """
    run_id, sent_at = headers.get(RUN_HEADER), headers.get(SENT_HEADER)
    if not run_id or not isinstance(sent_at, int | float):
        return False
    return OutcomeReader(running.redis).cancelled_at(str(run_id)) >= sent_at


def _leave_note(task: Task, note: TaskNote) -> None:
    if (task.request.headers or {}).get(RUN_HEADER):
        return
    # Not the runtime's connection: that the runtime cannot start may be what is to be noted.
    running = runtime.current()
    values = running.settings if running else settings.load()
    with connect(values.redis_url) as redis:
        keep = timedelta(days=values.outcome_days)
        TaskNotes(redis).write(task.request.id, note, keep=keep)


@contextmanager
def _failures_noted(task: Task) -> Iterator[None]:
    """Note why a task fails, which ends its message: who sent it would wait for ever."""
    try:
        yield
    except (TaskPredicate, MemoryError, StoreUnavailable, ConfigError):
        raise  # it is not over
    except MessageInvalid as error:
        _leave_note(task, TaskNote(error=str(error)))
        raise
    except Exception as error:
        _leave_note(task, TaskNote(error=f"{type(error).__name__}: see the worker's log"))
        raise


def _generate(
    task: Task,
    chunks: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | None,
    model: str | None,
) -> None:
    running = runtime.current() or runtime.start(settings.load())
    task_id = str(task.request.id)
    run_id = _run_id(task)
    base_url = running.settings.openai_base_url
    with structlog.contextvars.bound_contextvars(run=run_id, task=task_id):
        try:
            batch = parse_batch(
                chunks,
                config,
                model or running.settings.model,
                base_url=base_url,
                run_id=run_id,
                task_id=task_id,
            )
        except MessageInvalid as error:
            log.error("message_invalid", error=str(error))
            raise
        if batch.config.base_url != base_url:
            log.warning("other_api", wanted=batch.config.base_url, answers=base_url)
        headers, delivery = task.request.headers or {}, task.request.delivery_info or {}
        batch = replace(
            batch,
            is_budgeted=bool(headers.get(BUDGET_HEADER)),
            queue=delivery.get("routing_key") or "",
            waited_s=_waited_s(headers.get(SENT_HEADER)),
            is_redelivered=bool(delivery.get("redelivered")),
        )
        outcomes = running.engine.submit(batch).result()
        unfinished = len(set(batch.digests) - outcomes.keys())
        if unfinished and (running.engine.is_held(run_id) or _is_cancelled(running, headers)):
            # Its ledger knows what has no outcome; meanwhile other runs need the queue.
            log.info("task_left_to_client", unfinished=unfinished)
            _leave_note(task, TaskNote(error="the run is held: send it again when it is released"))
            return
        if unfinished:
            log.info("task_handed_back", unfinished=unfinished)
            raise Reject(f"{unfinished} chunks unfinished", requeue=True)
        _leave_note(task, TaskNote(chunks=batch.origins()))


@app.task(bind=True, base=ChunkTask)
def generate_qa_for_batch_async(
    self: Task,
    chunks: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | None = None,
    model: str | None = None,
) -> None:
    """Generate Q/A pairs for a list of chunks.

    Args:
        self: the task.
        chunks: dictionaries with ``chunk_id`` and ``text``, and optionally the other fields of
            :class:`qaworker.models.Chunk`.
        config: see :class:`qaworker.models.GenerationConfig`.
        model: the model's name; the worker's ``QAWORKER_MODEL`` when it is None.

    Raises:
        MessageInvalid: the arguments are not of this shape.
        Reject: some chunks have no outcome yet; the message goes back to the queue.
    """
    _generate(self, chunks, config, model)


@app.task(bind=True, base=ChunkTask)
def generate_qa_for_chunk_async(
    self: Task,
    chunk_data: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    model: str | None = None,
) -> None:
    """Generate Q/A pairs for one chunk; see :func:`generate_qa_for_batch_async`."""
    _generate(self, [chunk_data], config, model)


@signals.worker_process_shutdown.connect
def _on_child_shutdown(**_: Any) -> None:
    runtime.stop()


def _admits() -> bool:
    running = runtime.current()
    return running is None or running.engine.admits


@signals.worker_ready.connect
def _on_worker_ready(sender: Any, **_: Any) -> None:
    # Another application's worker may import these tasks, to send them.
    if sender.app is app:
        # Celery's own prints a line past all logging.
        install_worker_term_handler(sender, verbose=False)
        # Ctrl-C is a stop in order: Celery's own answer to it kills what a thread pool cannot.
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGTERM))
        values = settings.load()
        if values.pool == "threads":
            signal.signal(signal.SIGQUIT, heart.end_now)
            pulse.admits = _admits
        heart.start(str(sender.hostname), values)


@signals.worker_shutting_down.connect
def _on_worker_shutting_down(**_: Any) -> None:
    heart.shutdown_asked()
    # Under prefork this fires in the parent, which has no engine: the children end their tasks.
    if (running := runtime.current()) is not None:
        running.engine.drain()


@signals.worker_shutdown.connect
def _on_worker_shutdown(**_: Any) -> None:
    heart.stop()
    runtime.stop()
