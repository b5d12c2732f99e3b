"""What a person sees of a run: a live bar in a terminal, else a line now and then; then a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from qaworker.store.tally import Counts

# Often enough for a log that somebody follows.
LINE_EVERY_S = 10.0
# Longer than a call takes as a rule.
SILENCE_S = 60.0
# As often as a worker beats: what it says is no newer.
ASK_EVERY_S = 5.0


def console() -> Console:
    """Where people read: standard error."""
    return Console(stderr=True, highlight=False)


@contextmanager
def reading(shown: Console) -> Iterator[Callable[[int], None]]:
    """Shows how many documents were read."""
    with shown.status("reading the dataset") as status:
        yield (
            lambda documents: (
                status.update(f"reading the dataset: {documents} documents")
                if documents % 100 == 0
                else None
            )
        )


@contextmanager
def running(
    shown: Console, counts: Counts, held: Callable[[], Sequence[str]] = tuple
) -> Iterator[Callable[[Counts], None]]:
    """Shows how a run goes on, and says when nothing has happened for a while.

    Args:
        shown: where.
        counts: of the run as it begins.
        held: asks the workers why nothing moves; empty while it does.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("chunks, {task.fields[pairs]} pairs"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=shown,
        disable=not shown.is_terminal,
        transient=True,
    )
    task = bar.add_task("generating", total=counts.chunks, completed=counts.settled, pairs=0)
    lines = Lines(shown, counts.settled, held)

    def on_progress(now: Counts) -> None:
        bar.update(task, completed=now.settled, pairs=now.pairs)
        lines.tell(now)

    with bar:
        yield on_progress


class Lines:
    """Lines for logs, and the warning that nothing moves."""

    def __init__(
        self,
        shown: Console,
        settled: int,
        held: Callable[[], Sequence[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shown = shown
        self._settled = settled
        self._ask = held
        self._clock = clock
        self._held: Sequence[str] = ()
        self._moved_at = self._told_at = clock()
        self._asked_at = self._moved_at - ASK_EVERY_S

    def tell(self, now: Counts) -> None:
        """Print a line if it is time for one."""
        clock = self._clock()
        if clock - self._asked_at >= ASK_EVERY_S:
            self._asked_at = clock
            self._tell_held(self._ask())
        if now.settled != self._settled:
            self._settled = now.settled
            self._moved_at = clock
        elif clock - self._moved_at > SILENCE_S:
            why = "; ".join(self._held) or "see `qaworker check`"
            self._warn(f"no chunk has ended for {SILENCE_S:.0f} s: {why}")
            self._moved_at = clock
        if not self._shown.is_terminal and clock - self._told_at >= LINE_EVERY_S:
            self._shown.print(f"{now.settled}/{now.chunks} chunks, {now.pairs} pairs")
            self._told_at = clock

    def _tell_held(self, held: Sequence[str]) -> None:
        for reason in held:
            if reason not in self._held:
                self._warn(reason)
        self._held = held

    def _warn(self, text: str) -> None:
        self._shown.print(text, style="yellow", markup=False, soft_wrap=True)


def table(shown: Console, counts: Counts, seconds: float) -> None:
    """Print what came of a run."""
    result = Table("documents", "chunks", "pairs", "tokens", "seconds", box=None, pad_edge=False)
    result.add_row(
        str(counts.documents),
        str(counts.chunks),
        str(counts.pairs),
        f"{counts.usage.input} in, {counts.usage.output} out",
        f"{seconds:.1f}",
    )
    shown.print(result)
    if counts.skipped_rows:
        shown.print(f"left out: {counts.skipped_rows} bad rows", style="yellow")
    if counts.reused:
        shown.print(f"reused: {counts.reused} chunks that were answered before, at no cost")
    for kind, reasons in counts.reasons.items():
        for reason, chunks in sorted(reasons.items()):
            shown.print(f"{kind}: {chunks} chunks ({reason})", style="yellow")
    if counts.dead:
        shown.print(
            "`qaworker dead list` says why; `qaworker dead requeue` sends them again, those that were"
            " not discarded"
        )
