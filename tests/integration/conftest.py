"""What tests against a real Redis share."""

from __future__ import annotations

import pytest


@pytest.fixture
def client_env(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process be a client of the Redis at ``redis_url``."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
