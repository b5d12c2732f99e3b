from __future__ import annotations

import pytest

from qaworker.limits.limiter import Grant


@pytest.mark.parametrize(
    ("used", "back"), [(0, 500), (120, 380), (700, -200), (-1, 0), (10_000_001, 0), (10**400, 0)]
)
def test_what_is_no_number_of_tokens_leaves_the_reservation_charged(used: int, back: int) -> None:
    grant = Grant("me-1", 500, 0.0)
    assert grant.used(used).tokens_back == back
