from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qaworker.corpus import boundaries, tokens
from qaworker.corpus.chunking import Chunker
from qaworker.errors import ConfigError
from qaworker.models import MAX_PAIRS_PER_CHUNK, Chunk, Document, Language

EN = "The tide turns twice a day. Boats wait for it in the harbour, and so do the gulls. "
JA = "潮は一日に二度満ち引きする。港の船は潮を待ち、かもめも待っている。"

count = tokens.counter("gpt-5-mini")


def document(text: str, language: Language = "en") -> Document:
    return Document(doc_id="tides", text=text, language=language)


def check(text: str, chunks: list[Chunk], max_tokens: int) -> None:
    """Everything a list of chunks promises."""
    covered_to = 0
    for index, chunk in enumerate(chunks):
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.chunk_idx == index
        assert chunk.start >= covered_to
        assert not text[covered_to : chunk.start].strip()
        assert chunk.tokens == count(chunk.text) <= max_tokens
        covered_to = chunk.end
    assert not text[covered_to:].strip()


FRAGMENTS = [
    EN, JA, "\n\n", "\n", "\r\n", " ", "\u3000", "「はい。」", "Mr. Smith ", "<|endoftext|>",
    "👩‍👩‍👧‍👦", "𠮷", "é", "e\u0301", "\x1c", "a" * 40, "あ" * 40, "1234567890", "- item\n", "。", "\t",
]  # fmt: skip
TEXTS = st.lists(
    st.one_of(st.sampled_from(FRAGMENTS), st.text(st.characters(codec="utf-8"), max_size=30)),
    max_size=60,
).map("".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=TEXTS, chunk_size=st.integers(16, 120), least=st.integers(0, 80), merge=st.booleans())
def test_chunks_cover_the_text_once_within_the_limit(
    text: str, chunk_size: int, least: int, merge: bool
) -> None:
    max_tokens = max(chunk_size, least)
    chunker = Chunker(
        "gpt-5-mini",
        chunk_size=chunk_size,
        min_tokens=least,
        max_tokens=max_tokens,
        merge=merge,
    )
    check(text, chunker.chunks(document(text)), max_tokens)


@pytest.mark.parametrize("text", ["a" * 70_000, "あ" * 50_000, EN * 1000, JA * 1500])
def test_long_texts_are_cut_in_windows_and_nothing_is_lost(text: str) -> None:
    check(text, Chunker("gpt-5-mini").chunks(document(text)), 400)


@pytest.mark.parametrize("text", ["x", "x" * 20_000, "x" * 20_001, "あ。" * 30_000, "a\n\n" * 9000])
def test_windows_are_contiguous_and_bounded(text: str) -> None:
    spans = list(boundaries.windows(text))
    assert "".join(text[start:end] for start, end in spans) == text
    assert all(end - start <= 20_000 for start, end in spans)


@pytest.mark.parametrize("text", ["", " ", "\n\n\u3000\t"])
def test_white_space_has_no_chunks(text: str) -> None:
    assert Chunker("gpt-5-mini").chunks(document(text)) == []


@pytest.mark.parametrize("sentence", [EN, JA])
def test_paragraphs_are_kept_whole(sentence: str) -> None:
    paragraph = (sentence * 4).strip()
    text = "\n\n".join([paragraph] * 6)
    size = count(paragraph) + 5
    chunks = Chunker("gpt-5-mini", chunk_size=size, merge=False).chunks(document(text))
    assert [chunk.text for chunk in chunks] == [paragraph] * 6


@pytest.mark.parametrize(
    "sentence",
    [
        "彼女は「もう行きます。明日また来ます！」と言って、静かに部屋を出ていった。",
        "その本（来月出ます。）は、町の図書館でいちばん人気がある。",
        "本当にそんなことがあるのでしょうか！？",
        "At noon Dr. Ada of the St. Ives harbour office met Mr. J. K. Brown, as Fig. 3 shows. ",
        """The keeper of the lighthouse writes down the height of
Every tide, and the wind that came with it, in a long book. """,
    ],
)
def test_a_sentence_is_not_cut_inside(sentence: str) -> None:
    ends = {len(sentence.rstrip())} | {
        len(sentence) * n + len(sentence.rstrip()) for n in range(1, 30)
    }
    text = sentence * 30
    chunks = Chunker("gpt-5-mini", chunk_size=80, merge=False).chunks(document(text))
    assert len(chunks) > 3
    assert {chunk.end for chunk in chunks} <= ends


@pytest.mark.parametrize(
    ("heading", "sentence"),
    [("The slowing Earth", EN), ("## What is a tide?", EN), ("潮の満ち引き", JA)],
)
def test_a_heading_stays_with_what_follows(heading: str, sentence: str) -> None:
    paragraph = (sentence * 5).strip()
    text = "\n\n".join([heading, paragraph] * 10)
    for size in (60, 130, 200, 320):
        chunks = Chunker("gpt-5-mini", chunk_size=size).chunks(document(text))
        assert len(chunks) > 2
        assert not [chunk.text for chunk in chunks if chunk.text.endswith(heading)]


def test_lines_of_a_dialogue_and_of_a_list_stay_boundaries() -> None:
    lines = "- tea from the hills, rolled by hand and dried in the sun\n- salt\n二人は歩いた。\n"
    assert boundaries.hide_false_ends(lines) == lines


@pytest.mark.parametrize(("language", "sentence"), [("en", EN), ("ja", JA)])
def test_small_pieces_join_a_neighbour(language: Language, sentence: str) -> None:
    text = "\n\n".join([sentence.strip()] * 8)
    merged = Chunker("gpt-5-mini", chunk_size=40, min_tokens=60, max_tokens=90)
    apart = Chunker("gpt-5-mini", chunk_size=40, merge=False)
    chunks = merged.chunks(document(text, language))
    assert all(chunk.tokens >= 60 for chunk in chunks[:-1])
    assert len(chunks) < len(apart.chunks(document(text, language)))
    assert chunks[0].language == language
    assert [chunk.chunk_id for chunk in chunks[:2]] == ["tides#0", "tides#1"]


def test_a_small_last_piece_joins_the_one_before_it() -> None:
    text = (EN * 12).strip() + "\n\n終わり。"
    chunks = Chunker("gpt-5-mini", chunk_size=300, min_tokens=150, max_tokens=400).chunks(
        document(text)
    )
    assert len(chunks) == 1


def test_text_that_looks_like_a_special_token_is_text() -> None:
    [chunk] = Chunker("gpt-5-mini").chunks(document("<|endoftext|> ends nothing here."))
    assert chunk.text.startswith("<|endoftext|>")
    assert chunk.tokens > 7


@pytest.mark.parametrize(
    ("chunk_tokens", "wanted"),
    [(1, 1), (60, 1), (150, 3), (300, 5), (390, 7), (5000, MAX_PAIRS_PER_CHUNK)],
)
def test_pairs_follow_the_length(chunk_tokens: int, wanted: int) -> None:
    chunker = Chunker("gpt-5-mini", chunk_size=300, pairs_per_chunk=5)
    assert chunker.pairs_wanted(chunk_tokens) == wanted


@pytest.mark.parametrize("sentence", [EN, JA])
def test_late_chunks_get_as_many_pairs_as_early_ones(sentence: str) -> None:
    text = "\n\n".join([(sentence * 6).strip()] * 10)
    size = count(text) // 10
    chunker = Chunker("gpt-5-mini", chunk_size=size, min_tokens=1, pairs_per_chunk=4)
    wanted = [chunk.pairs_wanted for chunk in chunker.chunks(document(text))]
    assert wanted == [4] * 10


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"max_tokens": 8, "min_tokens": 1}, "at least 16"),
        ({"chunk_size": 2}, "at least 16"),
        ({"min_tokens": 500}, "--min-tokens 500 exceeds --max-tokens 400"),
    ],
)
def test_sizes_that_cannot_be_kept_are_refused(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Chunker("gpt-5-mini", **sizes)  # type: ignore[arg-type]  # the keys are its integers
