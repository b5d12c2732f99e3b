from __future__ import annotations

import subprocess
import sys

import pytest

from qaworker.llm import addresses
from qaworker.llm.addresses import outcome_digest
from qaworker.models import Chunk, GenerationConfig

CONFIG = GenerationConfig()


def test_the_digest_never_changes_by_accident() -> None:
    chunk = Chunk(chunk_id="c", text="灯台 lighthouse", language="ja", pairs_wanted=2)
    # A change here means that every stored outcome is paid for again.
    assert outcome_digest(chunk, CONFIG, "gpt-5-mini") == "c62013e0c18f9de7f38757c12956d728"


def test_the_digest_is_the_same_in_another_process(chunk: Chunk) -> None:
    script = (
        "import sys; from qaworker.models import Chunk, GenerationConfig;"
        "from qaworker.llm.addresses import outcome_digest;"
        "chunk = Chunk.model_validate_json(sys.stdin.buffer.read());"
        "print(outcome_digest(chunk, GenerationConfig(), 'gpt-5-mini'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=chunk.model_dump_json().encode(),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == outcome_digest(chunk, CONFIG, "gpt-5-mini")


@pytest.mark.parametrize("change", [{"text": "other"}, {"pairs_wanted": 4}, {"language": "other"}])
def test_what_shapes_the_answer_changes_the_digest(chunk: Chunk, change: dict[str, object]) -> None:
    if change == {"language": "other"}:
        change = {"language": "en" if chunk.language == "ja" else "ja"}
    changed = chunk.model_copy(update=change)
    assert outcome_digest(changed, CONFIG, "m") != outcome_digest(chunk, CONFIG, "m")


def test_where_the_chunk_comes_from_does_not(chunk: Chunk) -> None:
    moved = chunk.model_copy(
        update={"chunk_id": "x", "doc_id": "d", "chunk_idx": 9, "start": 5, "dataset_type": "news"}
    )
    assert outcome_digest(moved, CONFIG, "m") == outcome_digest(chunk, CONFIG, "m")


@pytest.mark.parametrize(
    ("model", "change", "shapes"),
    [
        ("gpt-5-mini", {"reasoning_effort": "high"}, True),
        ("gpt-5-mini", {"temperature": 1.0}, False),
        ("gpt-4o-mini", {"reasoning_effort": "high"}, False),
        ("gpt-4o-mini", {"temperature": 1.0}, True),
        ("gpt-5-mini", {"batch_chunks": 2}, True),
        ("gpt-5-mini", {"base_url": "http://127.0.0.1:8000/v1"}, True),
        ("gpt-5-mini", {"pairs_per_chunk": 7, "language": "en", "dataset_type": "x"}, False),
    ],
)
def test_only_parameters_that_are_sent_change_the_digest(
    chunk: Chunk, model: str, change: dict[str, object], shapes: bool
) -> None:
    changed = CONFIG.model_copy(update=change)
    differs = outcome_digest(chunk, changed, model) != outcome_digest(chunk, CONFIG, model)
    assert differs is shapes


def test_the_model_changes_the_digest(chunk: Chunk) -> None:
    assert outcome_digest(chunk, CONFIG, "a") != outcome_digest(chunk, CONFIG, "b")


@pytest.mark.parametrize("version", ["PROMPT_VERSION", "SCHEMA_VERSION"])
def test_the_versions_change_the_digest(
    chunk: Chunk, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = outcome_digest(chunk, CONFIG, "m")
    monkeypatch.setattr(addresses, version, "another")
    assert outcome_digest(chunk, CONFIG, "m") != before


def test_neighbours_do_not_run_together(chunk: Chunk) -> None:
    """Moving a character from one input to the next must not give the same digest."""
    digests = {
        outcome_digest(chunk.model_copy(update={"pairs_wanted": wanted, "text": text}), CONFIG, "m")
        for wanted, text in [(1, "1x"), (11, "x"), (1, '1","x'), (1, "1\\x")]
    }
    assert len(digests) == 4


def test_a_key_read_with_its_line_end_is_of_the_same_account() -> None:
    assert addresses.account("https://a", "sk-1\n") == addresses.account("https://a", "sk-1")


@pytest.mark.parametrize("module", ["addresses", "schema", "prompts", "evidence", "request"])
def test_the_client_side_does_not_import_openai(module: str) -> None:
    script = f"import sys, qaworker.llm.{module}; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
