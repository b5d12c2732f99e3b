from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from qaworker import keys
from qaworker.models import Chunk, Language
from qaworker.store.task_notes import TaskNote, TaskNotes

TEXTS: dict[Language, str] = {
    "en": "The bridge was rebuilt in 1954.",
    "ja": "橋は一九五四年に再建された。",
}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_note_says_which_chunks_a_task_held_without_their_text(
    redis_client: Any, language: Language
) -> None:
    chunk = Chunk(
        chunk_id="記事-1",
        text=TEXTS[language],
        language=language,
        pairs_wanted=2,
        doc_id="記事",
        chunk_idx=1,
        dataset_type="livedoor",
    )
    note = TaskNote(chunks=(("d1", chunk.origin),))
    notes = TaskNotes(redis_client)
    notes.write("t1", note, keep=timedelta(days=2))
    assert notes.read(["t0", "t1"]) == {"t1": note}
    assert TEXTS[language].encode() not in redis_client.get(keys.task("t1"))
    assert 0 < redis_client.ttl(keys.task("t1")) <= 2 * 24 * 3600


def test_a_note_says_why_a_task_could_not_be_read(redis_client: Any) -> None:
    notes = TaskNotes(redis_client)
    notes.write("t1", TaskNote(error="config.pairs: unknown"), keep=timedelta(days=1))
    assert notes.read(["t1"])["t1"].error == "config.pairs: unknown"


def test_there_are_no_notes_of_no_tasks(redis_client: Any) -> None:
    assert TaskNotes(redis_client).read([]) == {}
