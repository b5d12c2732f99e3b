"""The JSON that is asked for, and the check of what comes back.

Compatible servers may ignore the schema, so every answer is validated here as well.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from qaworker.errors import AnswerInvalid
from qaworker.llm.prompts import local_id
from qaworker.models import Difficulty, QuestionType

SCHEMA_VERSION: Final = "1"
"""Part of every outcome's address: raise it with any change to what is asked for."""

# Small models wrap their answer in a Markdown fence when the server does not enforce the schema.
_FENCE = re.compile(r"\A```\w*\s*(.*?)\s*```\Z", re.DOTALL)


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


class AnsweredPair(BaseModel):
    """A pair as the model wrote it; whether it is acceptable is decided elsewhere."""

    model_config = ConfigDict(extra="ignore")

    question: str
    answer: str
    question_type: Annotated[QuestionType, BeforeValidator(_lower)]
    difficulty: Annotated[Difficulty, BeforeValidator(_lower)]
    evidence: str
    chunk_id: str = ""


class _Answered(BaseModel):
    model_config = ConfigDict(extra="ignore")

    pairs: list[AnsweredPair]


@cache
def response_format(chunk_count: int) -> dict[str, Any]:
    """The ``response_format`` of a request with this many chunks in one prompt.

    Written out, as pydantic's own schema carries titles and references that are paid for in every
    call. Only a shared prompt asks for chunk ids. The value is shared: do not change it.
    """
    text = {"type": "string"}
    properties: dict[str, Any] = {
        "question": text,
        "answer": text,
        "question_type": {"type": "string", "enum": list(get_args(QuestionType))},
        "difficulty": {"type": "string", "enum": list(get_args(Difficulty))},
        "evidence": text,
    }
    if chunk_count > 1:
        ids = [local_id(position) for position in range(chunk_count)]
        properties = {"chunk_id": {"type": "string", "enum": ids}, **properties}
    pairs = {"type": "array", "items": _closed_object(properties)}
    return {
        "type": "json_schema",
        "json_schema": {
            "name": "qa_pairs",
            "strict": True,
            "schema": _closed_object({"pairs": pairs}),
        },
    }


def _closed_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def parse_pairs(content: str) -> list[AnsweredPair]:
    """The pairs of an answer, in its order.

    Unknown fields are ignored, and letter case of the two enumerations; nothing else is forgiven.

    Raises:
        AnswerInvalid: not the JSON that was asked for; the message says where, and quotes nothing.
    """
    fenced = _FENCE.match(content.strip())
    try:
        return _Answered.model_validate_json(fenced[1] if fenced else content).pairs
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = f"{where}: {first['msg']}" if where else first["msg"]
        # Not chained: pydantic's error quotes the answer, and a logged traceback would show it.
        raise AnswerInvalid(problem) from None
