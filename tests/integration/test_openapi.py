"""The OpenAPI document: valid, complete, and true of what the API really takes and answers."""

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.builders import accept, attempt, decide, end, just_now
from support.callers import API, BODY, api_of, bearer, make_key

from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.web.answers import WORDS_OF_ERRORS
from chargeapp.web.error_responses import WORDS

DESCRIBED = ("/api/", "/internal/", "/health", "/metrics")
Document = dict[str, Any]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Runtime, FlaskClient]]:
    with api_of(tmp_path) as opened:
        yield opened


@pytest.fixture
def runtime(opened: tuple[Runtime, FlaskClient]) -> Runtime:
    return opened[0]


@pytest.fixture
def api(opened: tuple[Runtime, FlaskClient]) -> FlaskClient:
    return opened[1]


@pytest.fixture
def document(api: FlaskClient) -> Document:
    found: Document = api.get("/openapi.json").get_json()
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            yield method, path, described


def follow(document: Document, part: Document) -> Document:
    while "$ref" in part:
        found: Any = document
        for step in part["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        part = found
    return part


def differences(document: Document, schema: Document, value: Any) -> list[str]:
    """Fields that the document does not know count too."""
    components = deepcopy(document["components"])
    for each in components["schemas"].values():
        each.setdefault("additionalProperties", False)
    whole = {**deepcopy(schema), "components": components}
    return [error.message for error in OAS31Validator(whole).iter_errors(value)]


def examples(content: Document) -> Iterator[Any]:
    if "example" in content:
        yield content["example"]
    yield from (each["value"] for each in content.get("examples", {}).values())


def contents(document: Document) -> Iterator[tuple[str, Document]]:
    """Every body, of requests and answers, wherever it is."""

    def walk(part: Any, where: str) -> Iterator[tuple[str, Document]]:
        if isinstance(part, dict):
            if isinstance(found := part.get("content", {}).get("application/json") if where else None, dict):
                yield where, found
            for name, inner in part.items():
                yield from walk(inner, f"{where}/{name}")

    yield from walk({name: document[name] for name in ("paths", "webhooks", "components")}, "")


# The document by itself


def test_it_is_valid_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def test_it_describes_every_route_and_no_other(api: FlaskClient, document: Document) -> None:
    routes = {
        (method.lower(), re.sub(r"<request_id>", "{requestId}", rule.rule))
        for rule in api.application.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.rule.startswith(DESCRIBED)
    }

    assert {(method, path) for method, path, _ in operations(document)} == routes


def test_routes_that_a_setting_takes_away_are_not_described(tmp_path: Path) -> None:
    with api_of(tmp_path, monitoring_metrics_enabled=False) as (_, api):
        document = api.get("/openapi.json").get_json()

    assert "/metrics" not in document["paths"]
    assert "/health" in document["paths"]


def test_every_example_follows_its_schema(document: Document) -> None:
    found = {
        where: differences(document, content["schema"], example)
        for where, content in contents(document)
        for example in examples(content)
    }

    assert {where: wrong for where, wrong in found.items() if wrong} == {}
    assert len(found) > 20


def test_every_refusal_has_the_one_shape(document: Document) -> None:
    refusals = [
        follow(document, answer)["content"]["application/json"]["schema"]
        for _, path, described in operations(document)
        for code, answer in described["responses"].items()
        if code >= "400" and not path.startswith("/health")
    ]

    assert all(schema == {"$ref": "#/components/schemas/Error"} for schema in refusals)
    assert len(refusals) > 30


def test_it_knows_every_word_that_an_error_may_have() -> None:
    assert {word for word, _ in WORDS.values()} <= set(WORDS_OF_ERRORS)


def test_it_says_when_to_try_again_and_how_to_repeat_safely(document: Document) -> None:
    post = document["paths"][API]["post"]

    assert [each["name"] for each in post["parameters"]] == ["Idempotency-Key"]
    assert "Idempotency-Replayed" in post["responses"]["200"]["headers"]
    for code in ("429", "503"):
        assert "Retry-After" in follow(document, post["responses"][code])["headers"]


def test_the_scopes_are_those_that_the_routes_require(api: FlaskClient, document: Document, runtime: Runtime) -> None:
    described = {(method, path): each["security"] for method, path, each in operations(document)}

    assert described["post", API] == [{"apiKey": ["submit"]}]
    assert described["get", API] == [{"apiKey": ["read"]}, {"apiKey": ["operate"]}]
    assert described["get", "/health"] == []


def test_the_callback_is_described_with_the_request_and_as_a_webhook(document: Document) -> None:
    (by_request,) = document["paths"][API]["post"]["callbacks"]["decision"].values()
    webhook = document["webhooks"]["decision"]["post"]

    assert by_request["post"]["requestBody"] == webhook["requestBody"]
    assert [each["name"] for each in webhook["parameters"]] == [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ]


def test_the_shortest_driver_token_is_that_of_the_settings(tmp_path: Path) -> None:
    with api_of(tmp_path, driver_token_min_length=8) as (_, api):
        document = api.get("/openapi.json").get_json()

    token = document["components"]["schemas"]["ChargingSessionRequest"]["properties"]["driverToken"]
    assert token["pattern"] == r"^[A-Za-z0-9\-._~]{8,80}$"


def test_nobody_needs_a_key_to_read_it(api: FlaskClient, runtime: Runtime) -> None:
    make_key(runtime, Scope.READ)

    assert api.get("/openapi.json").status_code == 200


# The document and the API


def test_every_example_of_a_request_is_accepted(api: FlaskClient, document: Document) -> None:
    sent = [
        (path, api.open(path, method=method.upper(), json=example).status_code)
        for method, path, described in operations(document)
        if "requestBody" in described
        for example in examples(described["requestBody"]["content"]["application/json"])
    ]

    assert {code for _, code in sent} == {200}
    assert len(sent) == 3


def test_every_documented_field_is_understood_in_both_spellings(api: FlaskClient, document: Document) -> None:
    fields = {*document["components"]["schemas"]["ChargingSessionRequest"]["properties"]}
    camel = {**BODY, "ttlSeconds": 60}
    snake = {re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", name): value for name, value in camel.items()}

    assert camel.keys() == fields
    assert api.post(API, json=camel).status_code == 200
    assert api.post(API, json=snake).status_code == 200


def delivered_request(runtime: Runtime) -> str:
    (request_id,) = accept(runtime.database, vault=runtime.vault, now=just_now())
    for step in (decide, attempt, end):
        step(runtime.database, now=just_now())  # type: ignore[operator]
    return request_id


def test_real_answers_are_as_described(api: FlaskClient, runtime: Runtime, document: Document) -> None:
    request_id = delivered_request(runtime)
    one = "/{requestId}"
    asked: list[tuple[str, str, dict[str, Any], int]] = [
        ("post", API, {"json": BODY}, 200),
        ("post", API, {"json": {}}, 400),
        ("post", API, {"data": "{", "content_type": "application/json"}, 400),
        ("post", API, {"data": " " * 20_000, "content_type": "application/json"}, 413),
        ("post", API, {"data": "x"}, 415),
        ("post", API, {"json": BODY, "headers": {"Idempotency-Key": "a"}}, 200),
        ("post", API, {"json": BODY | {"ttlSeconds": 5}, "headers": {"Idempotency-Key": "a"}}, 422),
        ("get", API, {}, 200),
        ("get", API, {"query_string": {"limit": "0"}}, 400),
        ("get", API + one, {}, 200),
        ("post", f"{API}{one}/redelivery", {}, 202),
        ("post", f"{API}{one}/redelivery", {}, 409),
        ("post", "/internal/v1/authorize", {"json": {"station_id": "x", "driver_token": "y"}}, 200),
        ("post", "/internal/v1/authorize", {"json": []}, 400),
        ("get", "/health", {}, 200),
        ("get", "/health/live", {}, 200),
        ("get", "/health/ready", {}, 200),
        ("get", "/metrics", {}, 200),
        ("get", "/metrics", {"headers": bearer("cak_x")}, 401),
    ]

    for method, path, given, expected in asked:
        answer = api.open(path.replace("{requestId}", request_id), method=method.upper(), **given)

        described = follow(document, document["paths"][path][method]["responses"][str(answer.status_code)])
        schema = described["content"]["application/json"]["schema"]
        assert (path, answer.status_code) == (path, expected)
        assert differences(document, schema, answer.get_json()) == []
        assert {name for name, each in described.get("headers", {}).items() if each.get("required")} <= {
            *answer.headers.keys()
        }


def test_every_operation_was_held_against_real_answers(document: Document) -> None:
    described = {(method, path) for method, path, _ in operations(document)}

    assert len(described) == 9, "a new route needs a line in the test above, too"


def test_a_queue_that_is_full_is_as_described(tmp_path: Path) -> None:
    with api_of(tmp_path, queue_max_size=1) as (_, api):
        document = api.get("/openapi.json").get_json()
        answers = [api.post(API, json=BODY) for _ in range(2)]

    described = follow(document, document["paths"][API]["post"]["responses"]["503"])
    assert answers[1].status_code == 503
    assert differences(document, described["content"]["application/json"]["schema"], answers[1].get_json()) == []
    assert int(answers[1].headers["Retry-After"]) > 0


def test_a_real_callback_is_as_described(runtime: Runtime, document: Document) -> None:
    accept(runtime.database, vault=runtime.vault, now=just_now())
    decide(runtime.database, now=just_now())
    (callback,) = attempt(runtime.database, now=just_now())

    body = callback.body("driver-token-of-callbacks")
    assert differences(document, {"$ref": "#/components/schemas/Callback"}, body) == []
