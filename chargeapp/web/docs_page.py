"""The OpenAPI document rearranged for a reader: references followed, schemas as rows, a curl for each operation."""

import json
import shlex
from dataclasses import dataclass
from typing import Any

Part = dict[str, Any]


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    required: bool
    description: str


@dataclass(frozen=True)
class Answer:
    code: str
    description: str
    example: str


@dataclass(frozen=True)
class OperationShown:
    anchor: str
    tag: str
    method: str
    path: str
    summary: str
    description: str
    scopes: tuple[str, ...]
    parameters: tuple[Row, ...]
    body: tuple[Row, ...]
    curl: str
    answers: tuple[Answer, ...]


def operations_of(api: Part, here: str) -> list[OperationShown]:
    """`here` is where the API was asked, as curl is to find it."""
    return [
        _shown(api, f"{here}{path}", path, method, described)
        for path, methods in api["paths"].items()
        for method, described in methods.items()
    ]


def callback_of(api: Part) -> OperationShown:
    described: Part = api["webhooks"]["decision"]["post"]
    return _shown(api, "", "callbackUrl", "post", described)


def _shown(api: Part, url: str, path: str, method: str, described: Part) -> OperationShown:
    content = described.get("requestBody", {}).get("content", {}).get("application/json", {})
    return OperationShown(
        anchor=described["operationId"],
        tag=described.get("tags", [""])[0],
        method=method.upper(),
        path=path,
        summary=described["summary"],
        description=described.get("description", ""),
        scopes=tuple(scope for each in described.get("security", ()) for scope in each["apiKey"]),
        parameters=tuple(
            Row(each["name"], kind(each["schema"]), each.get("required", False), each.get("description", ""))
            for each in described.get("parameters", ())
        ),
        body=rows(follow(api, content.get("schema", {}))),
        curl=curl(url, method, described, content),
        answers=tuple(_answer(code, follow(api, each)) for code, each in described["responses"].items()),
    )


def follow(api: Part, part: Part) -> Part:
    """What a reference stands for."""
    found = part
    while "$ref" in found:
        _, _, kind_, name = found["$ref"].split("/")
        found = api["components"][kind_][name]
    return found


def rows(schema: Part) -> tuple[Row, ...]:
    required = schema.get("required", ())
    return tuple(
        Row(name, kind(each), name in required, each.get("description", ""))
        for name, each in schema.get("properties", {}).items()
    )


def kind(schema: Part) -> str:
    """In a few words: the type, and what narrows it."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    types = schema.get("type", "any")
    words = [types if isinstance(types, str) else " or ".join(types)]
    if "items" in schema:
        words.append(f"of {kind(schema['items'])}")
    if "enum" in schema:
        words.append("one of " + ", ".join("null" if each is None else str(each) for each in schema["enum"]))
    if "maximum" in schema:
        words.append(f"{schema.get('minimum', '')} to {schema['maximum']}")
    words += [str(schema[name]) for name in ("format", "pattern") if name in schema]
    return ", ".join(words)


def example_of(content: Part) -> Any:
    return content.get("example") or next((each["value"] for each in content.get("examples", {}).values()), None)


def curl(url: str, method: str, described: Part, content: Part) -> str:
    if not url:
        return ""
    for each in described.get("parameters", ()):
        if each["in"] == "path":
            url = url.replace(f"{{{each['name']}}}", each["example"])
    words = ["curl", *(["-X", method.upper()] if method != "get" else []), shlex.quote(url)]
    line = " ".join(words)
    if content:
        line += " \\\n  -H 'Content-Type: application/json' \\\n  -d " + shlex.quote(json.dumps(example_of(content)))
    return line


def _answer(code: str, response: Part) -> Answer:
    content = response.get("content", {}).get("application/json", {})
    example = example_of(content)
    return Answer(code, response["description"], "" if example is None else json.dumps(example, indent=2))
