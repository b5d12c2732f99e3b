"""Answers fit the contract with the prompts and quote the chunk."""

from __future__ import annotations

import itertools

import pytest

from qaworker.simulator.answers import (
    DIFFICULTIES,
    QUESTION_TYPES,
    Block,
    blocks_of,
    pairs_of,
)

ENGLISH = (
    "The lighthouse at Cape Erimo was rebuilt in 1951. Its tower is 14.5 m tall, and\n"
    'its light reaches 41 km. "Fog is our daily bread," the keeper said. Sailors say that the horn\n'
    "can be heard at night. In summer the cape has fog on 100 days a year."
)
JAPANESE = (
    "襟裳岬の灯台は1951年に再建された。塔の高さは14.5メートルで、光は41キロ先まで届く。"
    "「霧は日々の糧です。」と灯台守は語った。霧笛が夜に聞こえると船乗りは言う。"
    "夏の岬では年に100日ほど霧が出る。"
)
TEXTS = pytest.mark.parametrize("text", [ENGLISH, JAPANESE], ids=["en", "ja"])


@TEXTS
@pytest.mark.parametrize("wanted", [1, 3, 5])
def test_gives_the_number_of_pairs_wanted_each_on_a_sentence_of_the_text(
    text: str, wanted: int
) -> None:
    pairs = pairs_of(Block("", wanted, text), seed=0)
    assert len(pairs) == wanted
    for pair in pairs:
        assert pair["evidence"] in text
        assert len(pair["evidence"]) >= 10
        assert pair["question_type"] in QUESTION_TYPES
        assert pair["difficulty"] in DIFFICULTIES
        assert "".join(pair["evidence"].split()) in "".join(pair["answer"].split())
    assert len({pair["question"] for pair in pairs}) == wanted
    assert len({pair["evidence"] for pair in pairs}) == wanted


@pytest.mark.parametrize(("text", "mark"), [(ENGLISH, "?"), (JAPANESE, "。")], ids=["en", "ja"])
def test_asks_in_the_script_of_the_text(text: str, mark: str) -> None:
    for pair in pairs_of(Block("", 5, text), seed=3):
        assert pair["question"].endswith(mark)
        assert pair["question"].isascii() <= (mark == "?")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [(ENGLISH, "Its tower is 14.5 m tall, and\nits light reaches 41 km."),
     (JAPANESE, "「霧は日々の糧です。」")],
    ids=["en", "ja"],
)  # fmt: skip
def test_a_sentence_keeps_its_numbers_line_breaks_and_closing_brackets(
    text: str, sentence: str
) -> None:
    assert sentence in [pair["evidence"] for pair in pairs_of(Block("", 5, text), seed=0)]


@TEXTS
def test_is_the_same_for_a_seed_and_another_for_another(text: str) -> None:
    block = Block("", 2, text)
    assert pairs_of(block, seed=1) == pairs_of(block, seed=1)
    assert len({str(pairs_of(block, seed)) for seed in range(8)}) > 1


@TEXTS
def test_a_text_with_fewer_sentences_gives_one_pair_for_each(text: str) -> None:
    assert len(pairs_of(Block("", 20, text), seed=0)) == 5


@pytest.mark.parametrize("text", ["Contents", "目次", "1 2 3", "a" * 5000, "あ" * 5000])
def test_a_text_without_sentences_gives_one_pair(text: str) -> None:
    (pair,) = pairs_of(Block("", 3, text), seed=0)
    assert pair["evidence"] in text


def test_an_empty_text_gives_no_pair() -> None:
    assert pairs_of(Block("", 3, " \n\n "), seed=0) == []


@pytest.mark.parametrize(
    "text",
    [" ".join(f"It was seen in the year {1900 + year}." for year in range(20)),
     "".join(f"それは{1900 + year}年に見られた。" for year in range(20))],
    ids=["en", "ja"],
)  # fmt: skip
def test_questions_on_sentences_that_begin_alike_are_distinct(text: str) -> None:
    pairs = pairs_of(Block("", 20, text), seed=0)
    assert len({pair["question"] for pair in pairs}) == 20


@TEXTS
def test_reads_one_unnamed_block(text: str) -> None:
    assert blocks_of(f'Read this.\n<chunk pairs="4">\n{text}\n</chunk>\n') == [Block("", 4, text)]


def test_reads_several_named_blocks() -> None:
    prompt = "\n".join(
        f'<chunk id="c{number}" pairs="{number}">\n{text}\n</chunk>'
        for number, text in enumerate((ENGLISH, JAPANESE), start=1)
    )
    assert blocks_of(prompt) == [Block("c1", 1, ENGLISH), Block("c2", 2, JAPANESE)]


@pytest.mark.parametrize(
    "text", ["Use <chunk> & </chunk> as tags. Then go on.", "<b>太字</b>です。"]
)
def test_the_text_of_a_block_is_raw(text: str) -> None:
    assert blocks_of(f'<chunk pairs="1">\n{text}\n</chunk>') == [Block("", 1, text)]


@TEXTS
def test_a_prompt_without_a_block_is_one(text: str) -> None:
    assert blocks_of(text) == [Block("", 3, text)]


def test_evidence_follows_the_order_of_the_text() -> None:
    text = " ".join(f"Sentence number {number} is here." for number in range(30))
    places = [text.index(pair["evidence"]) for pair in pairs_of(Block("", 7, text), seed=5)]
    assert all(first < second for first, second in itertools.pairwise(places))
