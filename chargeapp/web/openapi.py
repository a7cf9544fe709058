"""The OpenAPI 3.1 document, made from the schemas that check requests, and from the routes that exist."""

from typing import Any, cast

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.openapi import OpenAPIConverter
from flask import Flask
from marshmallow import Schema, fields

from chargeapp import __version__
from chargeapp.domain.identifiers import STATION_ID
from chargeapp.security.api_keys import Scope
from chargeapp.web.answers import ErrorSchema
from chargeapp.web.openapi_parts import Operation, Part, json_of
from chargeapp.web.openapi_service import service_operations
from chargeapp.web.openapi_sessions import callback, session_operations
from chargeapp.web.schemas import SPELLINGS, SessionRequestSchema, StationId

TAGS = {
    "Charging sessions": "May this driver charge at this station?",
    "Authorization": "The built-in authorization service.",
    "Operations": "Health and figures.",
}
REFUSALS = {
    400: ("validation_error", "A field is wrong, missing or unknown, or the body is no JSON."),
    401: ("unauthorized", "No API key, or one that is unknown, expired or revoked."),
    403: ("forbidden", "The API key lacks the scope."),
    404: ("not_found", "No such request, or it is another caller's."),
    409: ("conflict", "The callback is still on its way, or its driver token was erased."),
    413: ("payload_too_large", "The body is larger than `MAX_REQUEST_BYTES`."),
    415: ("unsupported_media_type", "The body must be `application/json`."),
    422: ("idempotency_key_reused", "The same key came before with other fields."),
    429: ("rate_limited", "Too many requests. Try again after `Retry-After`."),
    500: ("internal_error", "A fault of ours; the log has it."),
    503: ("unavailable", "The queue is full, or the database cannot commit. Try again after `Retry-After`."),
}
HEADERS = {
    "Retry-After": {"description": "In so many seconds.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "What is missing, as RFC 6750 says.", "schema": {"type": "string"}},
}
SENT_WITH = {401: "WWW-Authenticate", 403: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
DESCRIPTION = (
    "May this driver charge at this station? The acknowledgement comes at once, the decision follows as a callback."
    " After a 4xx or 503 nothing was stored. Every error has one shape, that of the schema `Error`; a method that an"
    " address does not answer to is refused with 405 and the header `Allow`."
)
END = r"\Z"
KEYS = (
    "An API key, `cak_…`. None is needed as long as none was ever made; until then only the machine itself can call."
    " The word in the list is the scope that the key must have."
)


class Converter(OpenAPIConverter):
    """Says the same as marshmallow checks, where the words of JSON Schema mean something else."""

    def field2default(self, field: fields.Field[Any], **kwargs: Any) -> Part:
        """None stands for not given."""
        return {} if field.load_default is None else cast(Part, super().field2default(field, **kwargs))

    def field2pattern(self, field: fields.Field[Any], **kwargs: Any) -> Part:
        """Python's `match` looks at the beginning, JSON Schema anywhere; and `\\Z` is Python's alone."""
        if isinstance(field, StationId):
            return {"pattern": f"^({STATION_ID.pattern})$"}
        found = cast(Part, super().field2pattern(field, **kwargs))
        return {name: f"^{pattern.removesuffix(END)}$" for name, pattern in found.items()}


class Plugin(MarshmallowPlugin):
    Converter = Converter


def document(app: Flask, token_min_length: int) -> Part:
    """Only of routes that `app` has; a setting may have taken some away."""
    plugin = Plugin(schema_name_resolver=_name)
    spec = APISpec(
        title="chargeapp",
        version=__version__,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
        servers=[{"url": "/"}],
        tags=[{"name": name, "description": text} for name, text in TAGS.items()],
    )
    assert plugin.converter is not None
    spec.components.security_scheme("apiKey", {"type": "http", "scheme": "bearer", "description": KEYS})
    spec.components.schema("ChargingSessionRequest", _request(plugin.converter, token_min_length))
    spec.components.schema("Error", schema=ErrorSchema)
    for code, (word, text) in REFUSALS.items():
        spec.components.response(str(code), _refusal(code, word, text))
    for each in [*session_operations(), *service_operations()]:
        if each.endpoint in app.view_functions:
            described = _described(each, cast(Any, app.view_functions[each.endpoint]).required_scopes)
            spec.path(path=each.path, operations={each.method: described})
    decision = {"post": callback() | {"operationId": "decision"}}
    plugin.resolver.resolve_operations(decision)  # type: ignore[union-attr]
    return spec.to_dict() | {"webhooks": {"decision": decision}}


def _described(operation: Operation, scopes: frozenset[Scope]) -> Part:
    refusals = {*operation.refusals, 429, 500} | ({401, 403} if scopes else set())
    described: Part = {
        "operationId": operation.endpoint.rpartition(".")[2],
        "tags": [operation.tag],
        "summary": operation.summary,
        "security": [{"apiKey": [scope.value]} for scope in Scope if scope in scopes],
        "responses": operation.answers | {str(code): str(code) for code in sorted(refusals)},
    }
    if operation.description:
        described["description"] = operation.description
    if operation.parameters:
        described["parameters"] = list(operation.parameters)
    if operation.body:
        described["requestBody"] = {"required": True, "content": operation.body}
    if operation.callbacks:
        described["callbacks"] = operation.callbacks
    return described


def _refusal(code: int, word: str, text: str) -> Part:
    example: Part = {"status": word, "message": text, "timestamp": 1795320521005}
    refusal: Part = {"description": text, "content": json_of(ErrorSchema, example)}
    if header := SENT_WITH.get(code):
        refusal["headers"] = {header: HEADERS[header] | {"required": True}}
    return refusal


def _request(converter: OpenAPIConverter, token_min_length: int) -> Part:
    """In the canonical spelling."""
    described: Part = converter.schema2jsonschema(SessionRequestSchema(token_min_length))  # type: ignore[no-untyped-call]
    described["properties"] = {SPELLINGS[name]: each for name, each in described["properties"].items()}
    described["required"] = [SPELLINGS[name] for name in described["required"]]
    return described


def _name(schema: type[Schema] | Schema | str) -> str:
    class_ = schema if isinstance(schema, type) else type(schema)
    return class_.__name__.removesuffix("Schema")
