"""A batch on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from qaworker.engine.batches import Batch
from qaworker.engine.prompt import Prompt
from qaworker.store.outcomes import Spent


@dataclass(slots=True, eq=False)
class Work:
    """The batch, and what became of it so far."""

    batch: Batch
    is_arriving: bool = True
    """Whether nobody knows yet how much of it is to be asked for."""
    has_budget: bool = False
    """Whether Redis told of a budget of its run; one whose batch says so may have been lost there."""
    is_stopping: bool = False
    held_since_s: float | None = None
    """When its model was first seen held, by the loop's clock; None while it is not."""
    prompts: list[Prompt] = field(default_factory=list)
    spent: dict[str, Spent] = field(default_factory=dict)
    """By digest: what its run spent on a chunk, as known when its prompt last ended."""
    deaths: dict[str, int] = field(default_factory=dict)
    """By digest: how many workers died with a chunk, where any did."""

    @property
    def paying_run(self) -> str | None:
        """The run whose budget pays; None when there is no budget."""
        return self.batch.run_id if self.batch.is_budgeted or self.has_budget else None

    def stop(self) -> None:
        """See :meth:`Prompt.stop`."""
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.stop()

    def abort(self) -> None:
        """See :meth:`Prompt.abort`."""
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.abort()

    def give_back(self) -> None:
        """See :meth:`Prompt.give_back`."""
        self.is_stopping = True
        for prompt in self.prompts:
            prompt.give_back()
