"""Forms question/answer pairs from the text in a prompt, by rule: there is no language model here.

The prompt contract is shared with ``llm``: the user's messages hold blocks

    <chunk id="c1" pairs="3">
    …text, raw, English or Japanese…
    </chunk>

where ``id`` is present only when several chunks share the prompt.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

QUESTION_TYPES = ("fact", "reason", "comparison", "application")
DIFFICULTIES = ("easy", "medium", "hard")
DEFAULT_PAIRS = 3
"""For a prompt without a block."""
LONGEST_SENTENCE = 300
"""Characters; a table or a list without full stops is quoted up to here."""
LEAST_SENTENCE = {"en": 20, "ja": 10}
"""Characters; what is shorter is a heading or a number, quoted only when nothing else is there."""
SUBJECT_LENGTH = {"en": range(2, 13), "ja": range(2, 31)}
"""Words, or characters in Japanese, that name a subject: one English word is often a pronoun."""

_BLOCK = re.compile(
    r'^<chunk(?: id="(?P<id>[^"\n]*)")? pairs="(?P<pairs>\d+)">\n(?P<text>.*?)\n</chunk>\s*$',
    re.DOTALL | re.MULTILINE,
)
# A full stop counts before white space only (3.14, example.org); a Japanese one always, with the
# closing brackets that follow it; a blank line ends a heading. The common first character lets the
# search skip what ends nothing.
_SENTENCE_END = re.compile(
    r"""[.!?。！？\n](?:(?<=[.!?])["'”’)\]]*(?=\s)|(?<=[。！？])[」』）】]*|(?<=\n)(?=\s*\n))"""
)
_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_SUBJECT_END = {
    "en": re.compile(
        r"\s(?:is|are|was|were|has|have|had|can|could|will|would|may|might|must|should|does|did)\s"
    ),
    "ja": re.compile(r"[にでと]?[はが]"),
}
_CLAUSE = re.compile(r"[,;:、]")
_ARTICLE = re.compile(r"^(?:The|An?|This|These|Each|Every)\b")

_WORDING = {
    "en": {
        "fact": ("What is true of {}?", "{}"),
        "reason": ("Why is {} worth mentioning?", "Because of this: {}"),
        "comparison": ("What sets {} apart?", "What sets it apart is this: {}"),
        "application": ("When does one need to know about {}?", "Where this matters: {}"),
    },
    "ja": {
        "fact": ("{}について何が分かりますか。", "{}"),
        "reason": ("{}はなぜ取り上げられるのですか。", "次の理由によります。{}"),
        "comparison": ("{}は他と比べて何が違いますか。", "違いは次の点です。{}"),
        "application": (
            "{}についての知識はどのような場面で役立ちますか。",
            "次のような場面です。{}",
        ),
    },
}


@dataclass(frozen=True, slots=True)
class Block:
    """One chunk of a prompt; ``chunk_id`` is empty when the prompt does not name it."""

    chunk_id: str
    pairs: int
    text: str


def blocks_of(prompt: str) -> list[Block]:
    """The chunks of a prompt; the whole of it is one when none is marked."""
    blocks = [
        Block(found["id"] or "", int(found["pairs"]), found["text"])
        for found in _BLOCK.finditer(prompt)
    ]
    return blocks or [Block("", DEFAULT_PAIRS, prompt)]


def pairs_of(block: Block, seed: int) -> list[dict[str, str]]:
    """As many pairs as the block asks for, each on another sentence of its text.

    A text with fewer distinct sentences gives one pair for each; an empty one gives none. The
    answer depends on the text, the number and the seed alone, and ``evidence`` is verbatim.
    """
    language = "ja" if _is_japanese(block.text) else "en"
    sentences = _sentences(block.text, language)
    if not sentences:
        return []
    wanted = max(1, min(block.pairs, len(sentences)))
    lot = hashlib.blake2b(f"{seed}\n{block.text}".encode(), digest_size=4).digest()
    pairs = []
    asked: set[str] = set()
    for number in range(wanted):
        # One sentence from each of as many equal stretches of the text as pairs are wanted.
        place = (number * 256 + lot[0]) * len(sentences) // (wanted * 256)
        sentence = sentences[place]
        question_type = QUESTION_TYPES[(lot[1] + number) % len(QUESTION_TYPES)]
        question_form, answer_form = _WORDING[language][question_type]
        question = next(
            question
            for topic in _topics(sentence, language)
            if (question := question_form.format(topic)) not in asked
        )
        asked.add(question)
        pairs.append(
            {
                "question": question,
                "answer": answer_form.format(_flowing(sentence, language)),
                "question_type": question_type,
                "difficulty": DIFFICULTIES[(lot[2] + number) % len(DIFFICULTIES)],
                "evidence": sentence,
            }
        )
    return pairs


def _sentences(text: str, language: str) -> list[str]:
    """The distinct sentences of a text, verbatim and in order."""
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(text)), len(text)]
    pieces = (text[start:end].strip() for start, end in itertools.pairwise(ends))
    # Sentences that differ in white space alone would lead to the same question.
    distinct = {"".join(piece.split()): piece[:LONGEST_SENTENCE].rstrip() for piece in pieces}
    distinct.pop("", None)
    sentences = list(distinct.values())
    return [one for one in sentences if len(one) >= LEAST_SENTENCE[language]] or sentences


def _topics(sentence: str, language: str) -> Iterator[str]:
    """What a question can be about, shortest first; the last names the sentence beyond doubt."""
    flowing = _flowing(sentence, language)
    subject = _SUBJECT_END[language].split(flowing, maxsplit=1)[0]
    length = len(subject) if language == "ja" else subject.count(" ") + 1
    if length in SUBJECT_LENGTH[language] and not _CLAUSE.search(subject) and subject != flowing:
        yield _ARTICLE.sub(lambda article: article[0].lower(), subject)
    if language == "ja":
        yield f"「{flowing[:24]}…」"
        yield f"「{flowing}」"
    else:
        yield f"“{' '.join(flowing.split(' ')[:8])} …”"
        yield f"“{flowing}”"


def _flowing(sentence: str, language: str) -> str:
    """The sentence on one line; Japanese lines are joined without a space."""
    return ("" if language == "ja" else " ").join(sentence.split())


def _is_japanese(text: str) -> bool:
    sample = text[:500]
    return not sample.isascii() and len(_JAPANESE.findall(sample)) * 5 > len(sample)
