"""Who gets in where: every route with no key, with one that is no good, and with one that is good for other things."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import delete, func, select, update
from support.callers import API, BODY, api_of, bearer, make_expired_key, make_key, open_api, revoke

from chargeapp.errors import MisconfiguredError
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope, new_key
from chargeapp.services.api_keys import list_keys
from chargeapp.storage import api_keys
from chargeapp.storage.models import ApiKey, SessionRequest

SUBMIT, READ, OPERATE, ADMIN = Scope
UNKNOWN = "req-" + "0" * 32
NO_ENTRY = {"driver": "0" * 64, "station": "*"}
AUTHORIZE = {"station_id": BODY["stationId"], "driver_token": BODY["driverToken"]}
SECRETS = {
    "webhook_secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "driver_token_keys": ("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=",),
    "driver_token_hash_key": "a key of the tests, long enough for it",
}

# What is asked for, the scopes of which one is needed, and what is answered to whoever has it.
GUARDED: dict[str, tuple[str, str, dict[str, Any], set[Scope], int]] = {
    "POST charging-session": ("POST", API, {"json": BODY}, {SUBMIT}, 200),
    "GET charging-session": ("GET", API, {}, {READ, OPERATE, ADMIN}, 200),
    "GET one": ("GET", f"{API}/{UNKNOWN}", {}, {READ, OPERATE, ADMIN}, 404),
    "POST redelivery": ("POST", f"{API}/{UNKNOWN}/redelivery", {}, {SUBMIT, OPERATE, ADMIN}, 404),
    "POST authorize": ("POST", "/internal/v1/authorize", {"json": AUTHORIZE}, {OPERATE, ADMIN}, 200),
    "GET metrics": ("GET", "/metrics", {}, {OPERATE, ADMIN}, 200),
    "GET console": ("GET", "/", {}, {OPERATE, ADMIN}, 200),
    "GET requests": ("GET", "/requests", {}, {OPERATE, ADMIN}, 200),
    "POST requests": ("POST", "/requests", {}, {OPERATE, ADMIN}, 303),
    "GET request": ("GET", f"/requests/{UNKNOWN}", {}, {OPERATE, ADMIN}, 404),
    "POST request's redelivery": ("POST", f"/requests/{UNKNOWN}/redelivery", {}, {OPERATE, ADMIN}, 404),
    "GET queues": ("GET", "/queues", {}, {OPERATE, ADMIN}, 200),
    "GET jobs of RQ": ("GET", "/rq/", {}, {OPERATE, ADMIN}, 503),
    "GET failed": ("GET", "/failed", {}, {OPERATE, ADMIN}, 200),
    "GET failed's redelivery": ("GET", "/failed/redelivery", {"query_string": {"which": "all"}}, {OPERATE, ADMIN}, 200),
    "POST failed's redelivery": ("POST", "/failed/redelivery", {"data": {"which": "all"}}, {OPERATE, ADMIN}, 303),
    "GET redelivered": ("GET", "/failed/redelivered", {}, {OPERATE, ADMIN}, 200),
    "GET dead letters": ("GET", "/dead-letters", {}, {OPERATE, ADMIN}, 200),
    "POST replay": ("POST", "/dead-letters/replay", {"data": {"which": "all"}}, {OPERATE, ADMIN}, 303),
    "GET access list": ("GET", "/access-list", {}, {OPERATE, ADMIN}, 200),
    "POST search": ("POST", "/access-list/search", {"data": {"driver_token": "*"}}, {OPERATE, ADMIN}, 303),
    "POST access list": ("POST", "/access-list", {"data": {"driver_token": "*"}}, {ADMIN}, 303),
    "GET entry": ("GET", "/access-list/entry", {"query_string": NO_ENTRY}, {ADMIN}, 404),
    "POST entry": ("POST", "/access-list/entry", {"data": NO_ENTRY}, {ADMIN}, 404),
    "POST removal": ("POST", "/access-list/removal", {"data": NO_ENTRY}, {ADMIN}, 404),
    "GET keys": ("GET", "/keys", {}, {OPERATE, ADMIN}, 200),
    "POST keys": ("POST", "/keys", {}, {ADMIN}, 400),
    "POST revocation": ("POST", "/keys/revocation", {"data": {"id": "0" * 12}}, {ADMIN}, 404),
    "GET secrets": ("GET", "/secrets", {}, {OPERATE, ADMIN}, 200),
    "POST secrets": ("POST", "/secrets", {"data": {"latest": "9"}}, {ADMIN}, 400),
    "POST retirement": ("POST", "/secrets/retirement", {"data": {"id": "9"}}, {ADMIN}, 404),
    "GET settings": ("GET", "/settings", {}, {OPERATE, ADMIN}, 200),
    "POST login": ("POST", "/login", {}, {OPERATE, ADMIN}, 303),
    "POST logout": ("POST", "/logout", {}, {OPERATE, ADMIN}, 303),
}
OPEN = ["/docs", "/openapi.json", "/health", "/health/live", "/health/ready", "/login", "/static/console.css"]

BAD_KEYS: dict[str, Callable[[Runtime], dict[str, str]]] = {
    "no key": lambda _: {},
    "unknown key": lambda _: bearer(new_key()),
    "wrong secret": lambda runtime: bearer(make_key(runtime, *Scope)[:-43] + "A" * 43),
    "another key's secret": lambda runtime: bearer(make_key(runtime, *Scope)[:17] + make_key(runtime, *Scope)[17:]),
    "expired": lambda runtime: bearer(make_expired_key(runtime, *Scope)),
    "revoked": lambda runtime: bearer(revoked_key(runtime)),
    "only the id": lambda runtime: bearer(make_key(runtime, *Scope)[:16]),
    "no key at all": lambda _: bearer("abc"),
    "nothing after Bearer": lambda _: {"Authorization": "Bearer "},
    "as a password": lambda runtime: {"Authorization": f"Basic {make_key(runtime, *Scope)}"},
    "without Bearer": lambda runtime: {"Authorization": make_key(runtime, *Scope)},
    "in another header": lambda runtime: {"X-Api-Key": make_key(runtime, *Scope)},
}


# A key that was looked up is remembered; only for this POST that will do.
ASKED: dict[str, tuple[dict[str, Any], int]] = {
    "GET": ({"method": "GET"}, 200),
    "POST": ({"method": "POST", "json": BODY}, 200),
    "POST of nonsense": ({"method": "POST", "json": {}}, 400),
}


def revoked_key(runtime: Runtime) -> str:
    key = make_key(runtime, *Scope)
    revoke(runtime, key)
    return key


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Runtime, FlaskClient]]:
    """An API that has keys."""
    with api_of(tmp_path_factory.mktemp("closed")) as (runtime, api):
        make_key(runtime, READ)
        yield runtime, api


@pytest.mark.parametrize("route", GUARDED)
@pytest.mark.parametrize("bad", BAD_KEYS)
def test_nobody_gets_in_without_a_good_key(closed: tuple[Runtime, FlaskClient], route: str, bad: str) -> None:
    runtime, _ = closed
    method, path, sent, _, _ = GUARDED[route]
    # A client of its own, because failed attempts of an address are counted.
    answer = open_api(runtime).open(path, method=method, headers=BAD_KEYS[bad](runtime), **sent)

    body = answer.get_json()
    assert (answer.status_code, body["status"]) == (401, "unauthorized")
    assert set(body) == {"status", "message", "timestamp"}
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="chargeapp"')


@pytest.mark.parametrize("route", GUARDED)
@pytest.mark.parametrize("scope", Scope)
def test_a_key_is_good_for_its_scopes_only(closed: tuple[Runtime, FlaskClient], route: str, scope: Scope) -> None:
    runtime, api = closed
    method, path, sent, needed, code = GUARDED[route]

    answer = api.open(path, method=method, headers=bearer(make_key(runtime, scope)), **sent)

    if scope in needed:
        assert answer.status_code == code
    else:
        body = answer.get_json()
        assert (answer.status_code, body["status"]) == (403, "forbidden")
        assert set(body) == {"status", "message", "timestamp"}
        assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"]
        assert all(each in body["message"] for each in needed - {ADMIN} or needed)


@pytest.mark.parametrize("path", OPEN)
def test_probes_need_no_key(closed: tuple[Runtime, FlaskClient], path: str) -> None:
    _, api = closed

    for headers in ({}, bearer(new_key())):
        with api.get(path, headers=headers) as answer:
            assert answer.status_code == 200


def test_the_tables_above_name_every_route(closed: tuple[Runtime, FlaskClient]) -> None:
    _, api = closed
    app: Flask = api.application
    adapter = app.url_map.bind("localhost")
    tried = {adapter.match(path, method=method)[0] for method, path, *_ in GUARDED.values()}
    tried |= {adapter.match(path)[0] for path in OPEN}

    assert tried == {rule.endpoint for rule in app.url_map.iter_rules()}


def test_a_route_that_says_nothing_is_for_operators(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        api.application.add_url_rule("/forgotten", view_func=lambda: "secret")
        submit, operate = make_key(runtime, SUBMIT, READ), make_key(runtime, OPERATE)

        codes = [
            api.get("/forgotten", headers=headers).status_code for headers in ({}, bearer(submit), bearer(operate))
        ]

    assert codes == [401, 403, 200]


def test_what_does_not_exist_is_not_found_with_and_without_key(closed: tuple[Runtime, FlaskClient]) -> None:
    _, api = closed

    assert api.get("/nothing").status_code == 404
    assert api.put(API).status_code == 405


def test_options_reach_no_view_and_need_no_key(closed: tuple[Runtime, FlaskClient]) -> None:
    _, api = closed

    answer = api.options(API)

    assert (answer.status_code, answer.text) == (200, "")


def test_whoever_has_the_secret_is_told_why_it_does_not_work(closed: tuple[Runtime, FlaskClient]) -> None:
    runtime, _ = closed
    expired = open_api(runtime).get(API, headers=bearer(make_expired_key(runtime, READ))).get_json()["message"]
    revoked = revoked_key(runtime)
    guessed = revoked[:-43] + "A" * 43

    assert expired == "This API key has expired."
    assert open_api(runtime).get(API, headers=bearer(revoked)).get_json()["message"] == "This API key was revoked."
    assert "not a valid API key" in open_api(runtime).get(API, headers=bearer(guessed)).get_json()["message"]


@pytest.mark.parametrize("asked", ASKED)
def test_a_revoked_key_is_refused_at_once_by_every_process(tmp_path: Path, asked: str) -> None:
    sent, status = ASKED[asked]
    with api_of(tmp_path) as (runtime, one):
        other = open_api(runtime)
        key = make_key(runtime, READ, SUBMIT)
        before = [each.open(API, **sent, headers=bearer(key)).status_code for each in (one, other)]

        revoke(runtime, key)

        after = [each.open(API, **sent, headers=bearer(key)).status_code for each in (one, other, one)]
        with runtime.database.reading() as session:
            stored = session.scalar(select(func.count(SessionRequest.id)))
    assert (before, after) == ([status, status], [401, 401, 401])
    assert stored == (2 if sent.get("json") == BODY else 0)


@pytest.mark.parametrize("asked", ASKED)
def test_the_first_key_closes_every_process_at_once_and_for_good(tmp_path: Path, asked: str) -> None:
    sent, status = ASKED[asked]
    with api_of(tmp_path) as (runtime, one):
        other = open_api(runtime)
        before = [each.open(API, **sent).status_code for each in (one, other)]

        key = make_key(runtime, READ)
        with_key = [each.open(API, **sent).status_code for each in (one, other)]
        revoke(runtime, key)
        revoked = [each.open(API, **sent).status_code for each in (one, other, open_api(runtime))]

    assert (before, with_key, revoked) == ([status, status], [401, 401], [401, 401, 401])


def test_that_a_key_was_revoked_is_not_remembered(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        key = make_key(runtime, SUBMIT)
        answers = [api.post(API, json=BODY, headers=bearer(key)).status_code]
        revoke(runtime, key)
        answers += [api.post(API, json=BODY, headers=bearer(key)).status_code for _ in range(2)]
        with runtime.database.writing() as session:
            session.execute(update(ApiKey).values(revoked_at=None))
        answers.append(api.post(API, json=BODY, headers=bearer(key)).status_code)

    assert answers == [200, 401, 401, 200]


def test_a_revoked_key_that_never_sufficed_is_refused_as_revoked(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        key = make_key(runtime, READ)
        answers = [api.post(API, json=BODY, headers=bearer(key)).status_code]
        revoke(runtime, key)
        answers.append(api.post(API, json=BODY, headers=bearer(key)).status_code)

    assert answers == [403, 401]


def test_attempts_with_a_key_that_was_deleted_are_counted(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        key, _ = make_key(runtime, SUBMIT), make_key(runtime, READ)
        answers = [api.post(API, json=BODY, headers=bearer(key)).status_code]
        with runtime.database.writing() as session:
            session.execute(delete(ApiKey).where(ApiKey.scopes == "submit"))
        answers += [api.post(API, json=BODY, headers=bearer(key)).status_code for _ in range(35)]

    assert (answers[0], answers[1], answers[-1]) == (200, 401, 429)


def test_callback_hosts_that_were_taken_away_or_added_count_at_once(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        key = make_key(runtime, SUBMIT)
        answers = [api.post(API, json=BODY, headers=bearer(key)).status_code]
        for hosts in ("elsewhere.example", ""):
            with runtime.database.writing() as session:
                session.execute(update(ApiKey).values(callback_hosts=hosts))
            answers.append(api.post(API, json=BODY, headers=bearer(key)).status_code)

    assert answers == [200, 400, 200]


def test_a_request_whose_key_has_changed_since_it_was_remembered_is_stored_as_the_new_callers(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        key = make_key(runtime, SUBMIT)
        api.post(API, json=BODY, headers=bearer(key))

        with runtime.database.writing() as session:
            session.execute(update(ApiKey).values(caller="another name", scopes="submit read"))
        api.post(API, json=BODY, headers=bearer(key))

        with runtime.database.reading() as session:
            callers = session.scalars(select(SessionRequest.caller).order_by(SessionRequest.id)).all()
    assert callers[1] == "another name" != callers[0]


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "", "10.0.0.1"])
def test_without_keys_only_this_machine_may_call(tmp_path: Path, address: str) -> None:
    with api_of(tmp_path) as (_, api):
        elsewhere = api.get(API, environ_overrides={"REMOTE_ADDR": address})
        here = api.get(API, environ_overrides={"REMOTE_ADDR": "::1"})

    assert (elsewhere.status_code, here.status_code) == (401, 200)


def test_without_keys_a_proxy_in_front_does_not_make_everybody_local(tmp_path: Path) -> None:
    with api_of(tmp_path, trusted_proxies=1) as (_, api):
        answer = api.get(API, headers={"X-Forwarded-For": "192.0.2.1"})

    assert answer.status_code == 401


@pytest.mark.parametrize("settings", [{"chargeapp_env": "production", **SECRETS}, {"host": "0.0.0.0"}, {"host": "::"}])
def test_the_api_does_not_start_where_others_could_call_without_key(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(MisconfiguredError, match="chargeapp keys create"), api_of(tmp_path, **settings):
        pass
    with api_of(tmp_path) as (runtime, _):
        key = make_key(runtime, READ)
    with api_of(tmp_path, **settings) as (_, api):
        codes = [api.get(API).status_code, api.get(API, headers=bearer(key)).status_code]

    assert codes == [401, 200]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_in_development_a_loopback_address_needs_no_key(tmp_path: Path, host: str) -> None:
    with api_of(tmp_path, host=host) as (_, api):
        assert api.get(API).status_code == 200


def test_a_database_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, _):
        key = make_key(runtime, READ)
        runtime.database.close()
        runtime.database.path.write_bytes(b"no database at all" * 1000)

        answer = open_api(runtime).get(API, headers=bearer(key))

    assert answer.status_code == 503


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://hooks.example.com/callback", 200),
        ("https://HOOKS.example.com:8443/other", 200),
        ("https://a.hub.example/", 200),
        ("https://hub.example/", 400),
        ("https://caller.example/", 400),
        ("https://hooks.example.com.evil.example/", 400),
    ],
)
def test_a_key_with_callback_hosts_calls_back_nowhere_else(
    closed: tuple[Runtime, FlaskClient], url: str, code: int
) -> None:
    runtime, api = closed
    key = make_key(runtime, SUBMIT, hosts=("hooks.example.com", "*.hub.example"))

    answer = api.post(API, json=BODY | {"callbackUrl": url}, headers=bearer(key))

    assert answer.status_code == code
    if code == 400:
        message = "callback_url must point to a host that this API key allows."
        assert answer.get_json()["message"] == message
        assert answer.get_json()["errors"] == {"callback_url": [message]}


def test_a_key_is_nowhere_in_the_database(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, api):
        key = make_key(runtime, SUBMIT)
        assert api.post(API, json=BODY, headers=bearer(key)).status_code == 200
        runtime.database.checkpoint()
        with runtime.database.reading() as session:
            stored = api_keys.find(session.connection(), key.split("_")[1])

    assert stored is not None
    assert key[17:] not in str(stored)
    assert not [each for each in tmp_path.iterdir() if each.is_file() and key[17:].encode() in each.read_bytes()]


def test_scopes_are_kept_in_one_order_and_once(tmp_path: Path) -> None:
    with api_of(tmp_path) as (runtime, _):
        make_key(runtime, OPERATE, SUBMIT, OPERATE)
        with runtime.database.reading() as session:
            (found,) = list_keys(session)

    assert found.scopes == "submit operate"
