"""The design qaworker grew out of, to be measured beside it: a Celery app of its own.

Prefork children with a blocking client that is built for each task, one chunk a task, and results
in Redis. ``slots.py`` starts it.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from openai import OpenAI

REDIS = os.environ["REDIS_URL"].replace("unix://", "redis+socket://")

app = Celery("grown_from", broker=REDIS, backend=REDIS)
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 1
app.conf.worker_max_tasks_per_child = 50


@app.task(name="generate")  # type: ignore[untyped-decorator]  # celery has no types
def generate(body: dict[str, Any]) -> str | None:
    """Ask for one chunk; ``body`` is the request that qaworker would make."""
    completion: Any = OpenAI().chat.completions.create(**body)
    content: str | None = completion.choices[0].message.content
    return content
