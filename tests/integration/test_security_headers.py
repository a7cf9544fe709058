"""What every response tells a browser, whatever it answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from support.callers import API, BODY, api_of, bearer, make_key

from chargeapp.security.api_keys import Scope

ANSWERS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "accepted": ("POST", API, {"json": BODY}, 200),
    "refused": ("POST", API, {"json": {}}, 400),
    "too large": ("POST", API, {"data": b"x" * 20_000, "content_type": "application/json"}, 413),
    "list": ("GET", API, {}, 200),
    "no such request": ("GET", f"{API}/req-1", {}, 404),
    "no such address": ("GET", "/nothing", {}, 404),
    "wrong method": ("DELETE", API, {}, 405),
    "options": ("OPTIONS", API, {}, 200),
    "without key": ("GET", API, {"headers": {}}, 401),
    "health": ("GET", "/health", {}, 200),
    "metrics": ("GET", "/metrics", {}, 200),
    "metrics for Prometheus": ("GET", "/metrics?format=prometheus", {}, 200),
    "authorize": ("POST", "/internal/v1/authorize", {"json": {}}, 400),
    "console": ("GET", "/", {}, 200),
    "login": ("GET", "/login", {}, 200),
    "login without key": ("POST", "/login", {"headers": {}}, 401),
    "requests": ("GET", "/requests", {}, 200),
    "requests, wrong": ("GET", "/requests?state=gone", {}, 400),
    "queues": ("GET", "/queues", {}, 200),
    "failed": ("GET", "/failed", {}, 200),
    "dead letters": ("GET", "/dead-letters", {}, 200),
    "access list": ("GET", "/access-list", {}, 200),
    "keys": ("GET", "/keys", {}, 200),
    "secrets": ("GET", "/secrets", {}, 200),
    "new secret": ("POST", "/secrets", {"data": {"caller": "hub"}}, 200),
    "settings": ("GET", "/settings", {}, 200),
    "no such request in the console": ("GET", "/requests/req-1", {}, 404),
    "static": ("GET", "/static/console.css", {}, 200),
    "static, none": ("GET", "/static/nothing.css", {}, 404),
    "fault of ours": ("GET", "/broken", {}, 500),
}

PAGES = {
    "console",
    "login",
    "login without key",
    "requests",
    "requests, wrong",
    "queues",
    "failed",
    "dead letters",
    "access list",
    "keys",
    "secrets",
    "new secret",
    "settings",
    "no such request in the console",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FlaskClient, dict[str, str]]]:
    with api_of(tmp_path_factory.mktemp("headers")) as (runtime, client):
        client.application.add_url_rule("/broken", view_func=lambda: 1 / 0)
        yield client, bearer(make_key(runtime, *Scope))


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_is_hardened(api: tuple[FlaskClient, dict[str, str]], name: str) -> None:
    client, key = api
    method, path, sent, code = ANSWERS[name]
    with client.open(path, method=method, **{"headers": key} | sent) as answer:
        headers = answer.headers

        assert answer.status_code == code
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    # Forms say where they come from only to their own site, and to that they must.
    assert headers["Referrer-Policy"] == ("same-origin" if name in PAGES else "no-referrer")
    assert "camera=()" in headers["Permissions-Policy"]
    assert headers["Cache-Control"] == ("no-cache" if name == "static" else "no-store")
    assert "Set-Cookie" not in headers
    assert not [each for each in headers.keys() if each.startswith("Access-Control-")]  # noqa: SIM118 - pairs otherwise


def test_json_may_load_nothing_at_all(api: tuple[FlaskClient, dict[str, str]]) -> None:
    client, key = api

    assert "'self'" not in client.get(API, headers=key).headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    ("proxies", "headers", "scheme", "told"),
    [
        (0, {}, "http", False),
        (0, {}, "https", True),
        (0, {"X-Forwarded-Proto": "https"}, "http", False),
        (1, {"X-Forwarded-Proto": "https"}, "http", True),
    ],
    ids=["plain", "TLS", "claimed by the client", "said by a trusted proxy"],
)
def test_only_behind_tls_browsers_are_told_to_stay_there(
    tmp_path: Path, proxies: int, headers: dict[str, str], scheme: str, told: bool
) -> None:
    with api_of(tmp_path, trusted_proxies=proxies) as (_, client):
        answer = client.get("/health/live", headers=headers, base_url=f"{scheme}://localhost")

    assert ("Strict-Transport-Security" in answer.headers) is told
