"""What a route of the API takes and answers, in the words of OpenAPI."""

from dataclasses import dataclass, field
from typing import Any

Part = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """`refusals` besides those that any route of its kind has: a bad key, too many requests, a fault of ours."""

    endpoint: str
    method: str
    path: str
    tag: str
    summary: str
    answers: dict[str, Part]
    description: str = ""
    parameters: tuple[Part, ...] = ()
    body: Part | None = None
    refusals: tuple[int, ...] = ()
    callbacks: Part = field(default_factory=dict)


def json_of(schema: object, example: object = None) -> Part:
    return {"application/json": {"schema": schema, **({} if example is None else {"example": example})}}


def answer(description: str, schema: type, example: object, **more: Any) -> Part:
    return {"description": description, "content": json_of(schema, example), **more}
