"""What operators read follows the locale, whether that is installed or not."""

from __future__ import annotations

import pytest

from tests.support.commands import Run

JAPANESE = ("=== Celeryワーカー ステータス ===", "Redis: ✓ 起動中 (", "キュー長: 0")
ENGLISH = ("=== Celery worker status ===", "Redis: ✓ running (", "Queue length: 0")


@pytest.mark.parametrize(
    ("locale", "said"),
    [
        ({"LANG": "ja_JP.UTF-8"}, JAPANESE),
        ({"LANG": "C"}, ENGLISH),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C.UTF-8"}, ENGLISH),
        ({"LANG": "de_DE.UTF-8"}, ENGLISH),
    ],
)
def test_the_status_is_in_the_language_of_the_locale(
    run: Run, redis_url: str, locale: dict[str, str], said: tuple[str, ...]
) -> None:
    ran = run("status", REDIS_URL=redis_url, **locale)
    lines = ran.out.splitlines()
    assert [line[: len(text)] for line, text in zip(lines, said, strict=False)] == list(said)
    assert (ran.code, ran.err) == (3, "")


def test_so_are_complaints_and_what_the_monitor_finds(run: Run, nowhere: str) -> None:
    wrong = run("workers", "--wide", LANG="ja_JP.UTF-8")
    assert wrong.err.splitlines()[-1] == "エラー: '--wide' というオプションはありません。"
    looked = run("monitor", REDIS_URL=nowhere, LANG="ja_JP.UTF-8")
    assert looked.out.startswith("QAWORKER CRITICAL: Redis に接続できません: ")
    assert (wrong.code, looked.code) == (2, 2)
