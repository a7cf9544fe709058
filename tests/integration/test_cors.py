"""Browsers on other origins: nobody unless configured, then exactly those, and never with cookies."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from support.callers import API, BODY, api_of, bearer, make_key

from chargeapp.config import load_settings
from chargeapp.errors import MisconfiguredError
from chargeapp.security.api_keys import Scope

OPS = "https://ops.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
STRANGERS = [
    "https://evil.example",
    "http://ops.example.com",
    "https://ops.example.com:8443",
    "https://ops.example.com.evil.example",
    "https://evil-ops.example.com",
    "null",
    "*",
    "",
]


def told(headers: object) -> set[str]:
    return {name for name, _ in headers.items() if name.startswith("Access-Control-")}  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FlaskClient, dict[str, str]]]:
    with api_of(tmp_path_factory.mktemp("cors"), cors_origins=(OPS, "http://localhost:3000")) as (runtime, client):
        yield client, bearer(make_key(runtime, *Scope))


def test_by_default_no_origin_is_let_in(tmp_path: Path) -> None:
    with api_of(tmp_path) as (_, client):
        preflight = client.options(API, headers=PREFLIGHT | {"Origin": OPS})
        request = client.post(API, json=BODY, headers={"Origin": OPS})

    assert told(preflight.headers) == told(request.headers) == set()


@pytest.mark.parametrize("origin", [OPS, "http://localhost:3000"])
@pytest.mark.parametrize("path", [API, f"{API}/req-1", f"{API}/req-1/redelivery"])
def test_a_preflight_of_a_configured_origin_needs_no_key(
    api: tuple[FlaskClient, dict[str, str]], origin: str, path: str
) -> None:
    client, _ = api

    answer = client.options(path, headers=PREFLIGHT | {"Origin": origin})

    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST"
    assert {"Authorization", "Content-Type", "Idempotency-Key"} == set(
        answer.headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert "Origin" in answer.headers["Vary"]


def test_a_request_of_a_configured_origin_can_be_read_there(api: tuple[FlaskClient, dict[str, str]]) -> None:
    client, key = api
    accepted = client.post(API, json=BODY, headers=key | {"Origin": OPS})
    refused = client.post(API, json=BODY, headers={"Origin": OPS})

    assert (accepted.status_code, refused.status_code) == (200, 401)
    for answer in (accepted, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == OPS
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "Origin" in answer.headers["Vary"]


@pytest.mark.parametrize("origin", STRANGERS)
def test_no_other_origin_is_let_in(api: tuple[FlaskClient, dict[str, str]], origin: str) -> None:
    client, key = api

    preflight = client.options(API, headers=PREFLIGHT | {"Origin": origin})
    request = client.get(API, headers=key | {"Origin": origin})

    assert told(preflight.headers) == told(request.headers) == set()
    assert "Origin" in preflight.headers["Vary"]
    assert "Origin" in request.headers["Vary"]


@pytest.mark.parametrize("path", ["/", "/metrics", "/internal/v1/authorize", "/health"])
def test_only_the_api_is_for_other_origins(api: tuple[FlaskClient, dict[str, str]], path: str) -> None:
    client, key = api

    assert told(client.get(path, headers=key | {"Origin": OPS}).headers) == set()
    assert told(client.options(path, headers=PREFLIGHT | {"Origin": OPS}).headers) == set()


def test_cookies_are_never_wanted(api: tuple[FlaskClient, dict[str, str]]) -> None:
    client, key = api
    answers = [
        client.options(API, headers=PREFLIGHT | {"Origin": OPS}),
        client.get(API, headers=key | {"Origin": OPS}),
    ]

    assert all("Access-Control-Allow-Credentials" not in each.headers for each in answers)


@pytest.mark.parametrize("origins", ["*", "ops.example.com", f"{OPS}/", f"{OPS}/path", f"{OPS},*", "null", "ftp://a"])
def test_what_is_no_exact_origin_stops_the_start(origins: str) -> None:
    with pytest.raises(MisconfiguredError, match="CORS_ORIGINS: Must be exact origins"):
        load_settings({"CORS_ORIGINS": origins}, Path("no.toml"))


def test_origins_are_read_as_browsers_spell_them() -> None:
    settings = load_settings({"CORS_ORIGINS": "HTTPS://Ops.Example.com, http://[::1]:3000"}, Path("no.toml"))

    assert settings.cors_origins == (OPS, "http://[::1]:3000")
