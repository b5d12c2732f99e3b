"""One call: a prompt with one or several chunks, and what is accepted of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx2
import openai
from pydantic_core import to_json

from qaworker.errors import AnswerInvalid, Reported
from qaworker.llm import faults
from qaworker.llm.acceptance import accept
from qaworker.llm.completions import read_completion
from qaworker.llm.estimates import Estimates, Tokens
from qaworker.llm.rate_headers import reported
from qaworker.llm.request import request_body
from qaworker.llm.schema import parse_pairs
from qaworker.models import Chunk, GenerationConfig, QAPair, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """An accepted answer; ``pairs`` and ``dropped`` go by the chunks asked, in their order."""

    pairs: tuple[tuple[QAPair, ...], ...]
    dropped: tuple[int, ...]
    """Pairs not acceptable; those of no known chunk count for the first."""
    missing: tuple[int, ...]
    """Positions of chunks that a shared prompt's answer says nothing of: ask for them again."""
    usage: Usage
    reported: Reported = (None, None)
    """The limits that the provider says are in force: requests and tokens a minute."""


class Generator:
    """Asks a provider for question/answer pairs, in the event loop of its client."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._client = client
        # As the SDK joins a path to the base, which it does anew for each call.
        base = client.base_url
        self._url = str(base.copy_with(raw_path=base.raw_path + b"chat/completions"))
        self._estimates = Estimates()

    def tokens(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,
        model: str,
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,
    ) -> Tokens:
        """What the call that :meth:`ask` would make takes of the provider's limit."""
        return self._estimates.tokens(chunks, config, model, cap_factor=cap_factor, repair=repair)

    async def ask(
        self,
        chunks: Sequence[Chunk],
        config: GenerationConfig,
        model: str,
        *,
        cap_factor: float = 1.0,
        repair: str | None = None,
    ) -> Answer:
        """Make exactly one call for ``chunks``, which share a prompt.

        Args:
            chunks: 1 to 5, best of one language: the first one's is that of the instructions.
            config: the parameters that go into the request.
            model: the model to ask.
            cap_factor: multiplies the output cap, after an answer that reached it.
            repair: the message of the AnswerInvalid that the last call for these chunks raised.

        Raises:
            CallError: one of its kinds; ``usage`` is set where the provider charged.
        """
        body = request_body(chunks, config, model, cap_factor=cap_factor, repair=repair)
        try:
            # Bytes in and the plain response out are the SDK's cheapest forms.
            response = await self._client.post(
                self._url, cast_to=httpx2.Response, content=to_json(body)
            )
        except faults.LIBRARY_ERRORS as error:
            private = [self._client.api_key, *(chunk.text for chunk in chunks)]
            # Not chained: a logged traceback would show what the server repeats of the request.
            raise faults.translate(error, model, private) from None
        content, usage = read_completion(response.content)
        if repair is None:
            self._estimates.learn(chunks, model, usage)
        try:
            accepted = accept(parse_pairs(content), chunks)
        except AnswerInvalid as error:
            error.usage = usage
            raise
        rates = reported(response.headers)
        return Answer(accepted.pairs, accepted.dropped, accepted.missing, usage, rates)
