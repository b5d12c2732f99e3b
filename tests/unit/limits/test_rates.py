from __future__ import annotations

from pathlib import Path

import pytest

from qaworker.errors import ConfigError
from qaworker.limits.rates import Rates, RateTable, rate_table

OPENAI = "https://api.openai.com/v1"
ELSEWHERE = "http://127.0.0.1:8000/v1"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "limits.json"


def test_known_models_of_openai() -> None:
    table = rate_table(OPENAI)
    assert table.of("gpt-5-mini") == Rates(3500, 200_000, "table", "table")
    assert table.of("gpt-4o-mini") == Rates(500, 200_000, "table", "table")


def test_an_unknown_model_of_openai_begins_with_the_least() -> None:
    assert rate_table(OPENAI).of("gpt-99") == Rates(500, 30_000, "guess", "guess")


@pytest.mark.parametrize(
    "base_url", [ELSEWHERE, "https://api.openai.com.example.org/v1", "https://x.azure.com/openai"]
)
def test_other_servers_have_no_limit_that_is_known(base_url: str) -> None:
    assert rate_table(base_url).of("gpt-5-mini") == Rates()


@pytest.mark.parametrize(
    "model",
    [
        "openai/gpt-4o-mini",
        "gpt-4o-mini-2024-07-18",
        "openai/gpt-4o-mini-2024-07-18",
        "ft:gpt-4o-mini-2024-07-18:org:name:id",
    ],
)
def test_dated_and_fine_tuned_models_have_the_limits_of_their_base(model: str) -> None:
    assert rate_table("https://eu.api.openai.com/v1").of(model).tpm == 200_000


def test_the_file_replaces_the_table_and_adds_to_it(file: Path) -> None:
    file.write_text(
        '{"gpt-4o-mini": {"tpm": 1000}, "llama": {"rpm": 7, "tpm": 0}, "default": {"rpm": 60}}',
        encoding="utf-8",
    )
    table = rate_table(OPENAI, file=file)
    assert table.of("gpt-4o-mini-2024-07-18") == Rates(500, 1000, "table", "file")
    assert table.of("llama") == Rates(7, 0, "file", "file")
    assert table.of("gpt-5-mini") == Rates(60, 200_000, "file", "table")
    assert rate_table(ELSEWHERE, file=file).of("other") == Rates(60, 0, "file", "none")


def test_the_environment_goes_before_the_file_for_every_model() -> None:
    table = RateTable(is_openai=True, rpm=0, tpm=90_000)
    for model in ("gpt-5-mini", "other"):
        assert table.of(model) == Rates(0, 90_000, "environment", "environment")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "valid dictionary"),
        ('{"gpt-5-mini": 3500}', "gpt-5-mini"),
        ('{"gpt-5-mini": {"rpm": -1}}', "gpt-5-mini.rpm"),
        ('{"gpt-5-mini": {"rpm": "3500"}}', "gpt-5-mini.rpm"),
        ('{"gpt-5-mini": {"rpm": true}}', "gpt-5-mini.rpm"),
        ('{"gpt-5-mini": {"rpm": NaN}}', "gpt-5-mini.rpm"),
        ('{"gpt-5-mini": {"rpms": 1}}', "gpt-5-mini.rpms"),
        ("\ud800", "is not JSON"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(file: Path, text: str | None, said: str) -> None:
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError, match="QAWORKER_LIMITS_FILE") as caught:
        rate_table(OPENAI, file=file)
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
