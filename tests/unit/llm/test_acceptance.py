from __future__ import annotations

import pytest

from qaworker.llm.acceptance import accept
from qaworker.llm.schema import AnsweredPair
from qaworker.models import Chunk


def answered(pair: dict[str, str], **changes: str) -> AnsweredPair:
    return AnsweredPair.model_validate({**pair, **changes})


@pytest.fixture
def shared(chunk: Chunk) -> list[Chunk]:
    """Three chunks of one prompt; the pair's evidence stands in the first alone."""
    other = {"en": "Tides at the reef turn twice a day.", "ja": "岩礁の潮は一日に二度変わる。"}
    second = chunk.model_copy(update={"text": other[chunk.language], "pairs_wanted": 1})
    return [chunk, second, second.model_copy(update={"text": f"{second.text} {second.text}"})]


def test_a_good_pair_is_kept_and_trimmed(chunk: Chunk, pair: dict[str, str]) -> None:
    result = accept([answered(pair, question=f" {pair['question']}\n")], [chunk])
    assert [kept.model_dump() for kept in result.pairs[0]] == [pair]
    assert result.dropped == (0,)
    assert result.missing == ()


@pytest.mark.parametrize("field", ["question", "answer", "evidence"])
@pytest.mark.parametrize("blank", ["", " \n", "\u3000"])
def test_a_blank_part_drops_the_pair(
    chunk: Chunk, pair: dict[str, str], field: str, blank: str
) -> None:
    result = accept([answered(pair, **{field: blank})], [chunk])
    assert (result.pairs, result.dropped) == (((),), (1,))


@pytest.mark.parametrize(
    "evidence", ["The tower fell into the sea in 1901.", "塔は海に崩れ落ちた。"]
)
def test_evidence_from_elsewhere_drops_the_pair(
    chunk: Chunk, pair: dict[str, str], evidence: str
) -> None:
    assert accept([answered(pair, evidence=evidence)], [chunk]).dropped == (1,)


def test_a_question_asked_before_is_dropped(chunk: Chunk, pair: dict[str, str]) -> None:
    again = pair["question"].upper().replace("?", " ？").replace("灯台", "灯 台")
    result = accept([answered(pair), answered(pair, question=again)], [chunk])
    assert (len(result.pairs[0]), result.dropped) == (1, (1,))


def test_pairs_beyond_those_wanted_are_left_out_and_not_counted(
    chunk: Chunk, pair: dict[str, str]
) -> None:
    many = [answered(pair, question=f"{pair['question']} {number}") for number in range(5)]
    result = accept(many, [chunk])
    assert [kept.question[-1] for kept in result.pairs[0]] == ["0", "1", "2"]
    assert result.dropped == (0,)


@pytest.mark.parametrize(
    "question",
    [
        "What does this article say of lighthouses?",
        "According to the passage, who wound up the weight?",
        "According to the text, when did it open?",
        "What is described in the given document?",
        "この記事によると、灯台はいつ完成しましたか。",
        "本文で述べられている灯台守の仕事は何ですか。",
        "本文中の灯台の役割は何ですか。",
        "上記の文章で、灯火は何の力で回りますか。",
        "灯台について、本稿の主張は何ですか。",
    ],
)
def test_a_question_that_points_at_its_source_is_dropped(
    chunk: Chunk, pair: dict[str, str], question: str
) -> None:
    assert accept([answered(pair, question=question)], [chunk]).dropped == (1,)


@pytest.mark.parametrize(
    "question",
    [
        "What does Article 9 of the treaty forbid?",
        "Who is the author of the tide tables?",
        "In the text of the treaty, which ports are named?",
        "日本文化で灯台はどう描かれてきましたか。",
        "基本文法を学ぶ理由は何ですか。",
        "英文を日本文に訳すこつは何ですか。",
        "山本記者は何を伝えましたか。",
    ],
)
def test_words_that_only_look_like_pointing_are_kept(
    chunk: Chunk, pair: dict[str, str], question: str
) -> None:
    assert accept([answered(pair, question=question)], [chunk]).dropped == (0,)


def test_a_single_chunk_owns_every_pair_whatever_its_id(chunk: Chunk, pair: dict[str, str]) -> None:
    assert len(accept([answered(pair, chunk_id="c7")], [chunk]).pairs[0]) == 1


def test_an_empty_answer_for_one_chunk_is_complete(chunk: Chunk) -> None:
    result = accept([], [chunk])
    assert (result.pairs, result.dropped, result.missing) == (((),), (0,), ())


def test_pairs_go_by_their_id_and_not_by_their_place(
    shared: list[Chunk], pair: dict[str, str]
) -> None:
    tides = answered(pair, evidence=shared[1].text, chunk_id="c2")
    result = accept([tides, answered(pair, chunk_id="c1")], shared)
    assert [len(pairs) for pairs in result.pairs] == [1, 1, 0]
    assert result.pairs[1][0].evidence == shared[1].text
    assert result.missing == (2,)


def test_an_unknown_id_is_resolved_by_evidence_in_exactly_one_chunk(
    shared: list[Chunk], pair: dict[str, str]
) -> None:
    result = accept([answered(pair, chunk_id="c9")], shared)
    assert [len(pairs) for pairs in result.pairs] == [1, 0, 0]


def test_evidence_in_two_chunks_attributes_to_none(
    shared: list[Chunk], pair: dict[str, str]
) -> None:
    result = accept([answered(pair, chunk_id="", evidence=shared[1].text)], shared)
    assert (result.pairs, result.dropped) == (((), (), ()), (1, 0, 0))
    assert result.missing == (0, 1, 2)


def test_a_known_id_with_evidence_of_another_chunk_is_dropped(
    shared: list[Chunk], pair: dict[str, str]
) -> None:
    result = accept([answered(pair, chunk_id="c2")], shared)
    assert (result.dropped, result.missing) == ((0, 1, 0), (0, 2))
