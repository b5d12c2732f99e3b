"""Cuts documents into chunks of a size fit for one question-and-answer call."""

from __future__ import annotations

from typing import Final, NamedTuple

from semantic_text_splitter import TextSplitter

from qaworker.corpus import boundaries, tokens
from qaworker.errors import ConfigError
from qaworker.models import MAX_PAIRS_PER_CHUNK, Chunk, Document

# One character takes up to four tokens, so that smaller limits could not be kept.
_LEAST_TOKENS: Final = 16


class _Piece(NamedTuple):
    start: int
    end: int
    tokens: int


class Chunker:
    """Cuts documents at paragraphs first, then at sentences, then at words.

    Pieces of up to ``chunk_size`` tokens are cut first. With ``merge``, one that has fewer than
    ``min_tokens`` then joins a neighbour of the same document where both together have at most
    ``max_tokens``, which no chunk ever exceeds. Tokens are those of ``model``.
    """

    def __init__(  # noqa: PLR0913 - each is an option of the command, and named in the call
        self,
        model: str,
        *,
        chunk_size: int = 300,
        min_tokens: int = 150,
        max_tokens: int = 400,
        merge: bool = True,
        pairs_per_chunk: int = 3,
        dataset_type: str = "custom",
    ) -> None:
        """Prepare for many documents.

        Raises:
            ConfigError: the sizes contradict each other or are too small.
        """
        if min(chunk_size, max_tokens) < _LEAST_TOKENS:
            raise ConfigError(
                f"chunks of {min(chunk_size, max_tokens)} tokens are too small:"
                f" --max-tokens and the chunk size must be at least {_LEAST_TOKENS}"
            )
        if merge and min_tokens > max_tokens:
            raise ConfigError(f"--min-tokens {min_tokens} exceeds --max-tokens {max_tokens}")
        self._count = tokens.counter(model)
        self._chunk_size = min(chunk_size, max_tokens)
        self._min_tokens = min_tokens if merge else 0
        self._max_tokens = max_tokens
        self._pairs_per_chunk = pairs_per_chunk
        self._dataset_type = dataset_type
        self._splitter = TextSplitter.from_callback(self._count, self._chunk_size)

    def chunks(self, document: Document) -> list[Chunk]:
        """The chunks of ``document``, in order; none when it holds only white space.

        They cover every character but white space once, and ``chunk.text`` is
        ``document.text[chunk.start:chunk.end]``.
        """
        pieces = self._merge(document.text, self._split(document.text))
        return [
            Chunk(
                chunk_id=f"{document.doc_id}#{index}",
                text=document.text[piece.start : piece.end],
                language=document.language,
                pairs_wanted=self.pairs_wanted(piece.tokens),
                doc_id=document.doc_id,
                chunk_idx=index,
                dataset_type=self._dataset_type,
                start=piece.start,
                end=piece.end,
                tokens=piece.tokens,
            )
            for index, piece in enumerate(pieces)
        ]

    def pairs_wanted(self, chunk_tokens: int) -> int:
        """How many pairs to ask for from a chunk of this many tokens.

        ``pairs_per_chunk`` is for ``chunk_size`` tokens; shorter and longer chunks get their share,
        rounded to the nearest, at least 1 and at most MAX_PAIRS_PER_CHUNK. Where the chunk stands
        in its document plays no part: the last chunks get as many as the first.
        """
        share = self._pairs_per_chunk * chunk_tokens / self._chunk_size
        return max(1, min(MAX_PAIRS_PER_CHUNK, int(share + 0.5)))

    def _split(self, text: str) -> list[_Piece]:
        shown = boundaries.hide_false_ends(text)
        pieces = []
        for begin, stop in boundaries.windows(shown):
            for offset, piece in self._splitter.chunk_indices(shown[begin:stop]):
                start = begin + offset
                pieces += self._true_pieces(text, start, start + len(piece))
        return pieces

    def _true_pieces(self, text: str, start: int, end: int) -> list[_Piece]:
        """The span as one piece, or cut again where the real text has more tokens than shown."""
        count = self._count(text[start:end])
        if count <= self._max_tokens:
            return [_Piece(start, end, count)]
        return [
            _Piece(start + offset, start + offset + len(piece), self._count(piece))
            for offset, piece in self._splitter.chunk_indices(text[start:end])
        ]

    def _merge(self, text: str, pieces: list[_Piece]) -> list[_Piece]:
        merged: list[_Piece] = []
        for piece in pieces:
            if merged and min(merged[-1].tokens, piece.tokens) < self._min_tokens:
                start = merged[-1].start
                count = self._count(text[start : piece.end])
                if count <= self._max_tokens:
                    merged[-1] = _Piece(start, piece.end, count)
                    continue
            merged.append(piece)
        return merged
