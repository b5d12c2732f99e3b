from __future__ import annotations

import subprocess
import sys

import pytest

from qaworker.corpus import tokens


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-5-mini", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("ft:gpt-4o:team", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("ft:gpt-3.5-turbo:team", "cl100k_base"),
        ("qwen3-8b", "o200k_base"),
    ],
)
def test_the_vocabulary_of_a_model(model: str, encoding: str) -> None:
    assert tokens.encoding_name(model) == encoding


# Its Python half opens its data in a way that Python 3.11 deprecates.
@pytest.mark.filterwarnings("ignore:open_binary is deprecated")
@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-4"])
@pytest.mark.parametrize(
    "text", ["", "Salt and tea.", "塩とお茶。", "<|endoftext|>", "👩‍👩‍👧‍👦 \n\n x"]
)
def test_counts_are_those_of_the_whole_package(model: str, text: str) -> None:
    import bpe_openai

    encoding = bpe_openai.get_encoding(tokens.encoding_name(model))
    assert tokens.counter(model)(text) == len(encoding.encode_ordinary(text))


def test_counting_does_not_import_the_slow_half_of_the_package() -> None:
    script = (
        "import sys; from qaworker.corpus import tokens; tokens.counter('gpt-5-mini')('x');"
        "sys.exit('bpe_openai' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
