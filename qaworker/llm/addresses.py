"""Digests that address an outcome, by everything that shapes it, and a provider's account."""

from __future__ import annotations

import json
from hashlib import blake2b

from qaworker.llm.prompts import PROMPT_VERSION
from qaworker.llm.reasoning import is_reasoning
from qaworker.llm.schema import SCHEMA_VERSION
from qaworker.models import Chunk, GenerationConfig


def outcome_digest(chunk: Chunk, config: GenerationConfig, model: str) -> str:
    """32 hexadecimal digits that are equal only where a stored outcome can stand for a new call.

    Where the chunk comes from (its id, document and offsets) shapes no answer and is left out, as
    are parameters that are not sent to this model.
    """
    reasoning = is_reasoning(model)
    shaping = [
        PROMPT_VERSION,
        SCHEMA_VERSION,
        config.base_url,
        model,
        config.reasoning_effort if reasoning else None,
        None if reasoning else config.temperature,
        config.batch_chunks,
        chunk.language,
        chunk.pairs_wanted,
        chunk.text,
    ]
    # A JSON list delimits its items, so no two different lists read alike.
    return blake2b(json.dumps(shaping).encode(), digest_size=16).hexdigest()


def account(base_url: str, api_key: str) -> str:
    """8 hexadecimal digits that name a provider's account, and tell nobody its key.

    White space around the key is no part of it, as the client that sends it has none.
    """
    return blake2b(json.dumps([base_url, api_key.strip()]).encode(), digest_size=4).hexdigest()
