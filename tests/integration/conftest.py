"""What tests against a real Redis share."""

from __future__ import annotations

import pytest

from qaworker.app import app, broker_url


@pytest.fixture
def client_env(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process be a client of the Redis at ``redis_url``."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    # Celery reads its settings once, and collecting the tests may have been the occasion.
    app.conf.broker_url = broker_url(redis_url)
