"""Everything the API refuses, with a real SQLite file: the status code, and the one shape of all errors."""

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from chargeapp.app import create_app
from chargeapp.config import load_settings
from chargeapp.runtime import Runtime
from chargeapp.storage import schema

API = "/api/v1/charging-session"
UNKNOWN_ID = "req-" + "0" * 32
GOOD: dict[str, Any] = {
    "stationId": "123e4567-e89b-12d3-a456-426614174000",
    "driverToken": "driver-token-of-errors-1",
    "callbackUrl": "https://caller.example/callback",
}
ERROR_FIELDS = {"status", "message", "timestamp"}
SMALL_LIMIT = 16_384


@pytest.fixture
def open_api(tmp_path: Path) -> Iterator[Callable[..., FlaskClient]]:
    """A client of the API with a database of its own."""
    runtimes = []

    def open_(**environ: str) -> FlaskClient:
        settings = load_settings({"CHARGEAPP_DATA_DIR": str(tmp_path), **environ}, tmp_path / "chargeapp.toml")
        runtime = Runtime(settings)
        runtimes.append(runtime)
        schema.upgrade(runtime.database)
        return create_app(settings).test_client()

    yield open_
    for runtime in runtimes:
        runtime.database.close()


@pytest.fixture
def api(open_api: Callable[..., FlaskClient]) -> FlaskClient:
    return open_api()


def without(name: str) -> dict[str, Any]:
    return {"json": {key: value for key, value in GOOD.items() if key != name}}


def having(**changed: Any) -> dict[str, Any]:
    return {"json": GOOD | changed}


def raw(data: bytes, content_type: str | None = "application/json") -> dict[str, Any]:
    return {"data": data, "content_type": content_type}


def chunked(data: bytes) -> dict[str, Any]:
    """As gunicorn hands it on: no length, and a stream that ends."""
    return {
        "input_stream": io.BytesIO(data),
        "content_type": "application/json",
        "environ_overrides": {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True},
    }


def padded(length: int) -> bytes:
    content = json.dumps(GOOD).encode()
    return content + b" " * (length - len(content))


ONE_FIELD = {
    "station_id missing": (without("stationId"), "station_id"),
    "driver_token missing": (without("driverToken"), "driver_token"),
    "callback_url missing": (without("callbackUrl"), "callback_url"),
    "driver token as host": (having(callbackUrl="https://Driver-Token-of-Errors-1.caller.example/"), "callback_url"),
    "unknown field": (having(connector=1), "connector"),
    "unknown field, whatever it is called": (having(**{"\ud800\x00": 1}), "\ud800\x00"),
    "station_id twice": (having(station_id=GOOD["stationId"]), "station_id"),
    "driver_token twice": (having(driver_token=GOOD["driverToken"]), "driver_token"),
    "callback_url twice": (having(callback_url=GOOD["callbackUrl"]), "callback_url"),
    "ttl_seconds twice": (having(ttlSeconds=60, ttl_seconds=60), "ttl_seconds"),
    **{
        f"station_id {value!r}": (having(stationId=value), "station_id")
        for value in (
            None,
            "",
            5,
            True,
            [],
            {},
            "station-1",
            "123e4567-e89b-12d3-a456-42661417400",
            "123e4567-e89b-12d3-a456-42661417400g",
            "{123e4567-e89b-12d3-a456-426614174000}",
            "urn:uuid:123e4567-e89b-12d3-a456-426614174000",
            "123e-4567-e89b12d3-a456-426614174000",
            " 123e4567-e89b-12d3-a456-426614174000",
            "123e4567-e89b-12d3-a456-426614174000\n",
            "123e4567-e89b-12d3-a456-42661417400\u0660",
            "123e4567-e89b-12d3-a456-4266_1417400",
            "\x00" * 36,
        )
    },
    **{
        f"driver_token {value!r}": (having(driverToken=value), "driver_token")
        for value in (
            None,
            "",
            5,
            ["a" * 20],
            "a" * 19,
            "a" * 81,
            "a" * 19 + " ",
            "a" * 19 + "/",
            "a" * 20 + "\n",
            "a" * 19 + "\x00",
            "a" * 19 + "ä",
            "a" * 19 + "\u0661",
        )
    },
    **{
        f"callback_url {value[:40]!r}": (having(callbackUrl=value), "callback_url")
        for value in (
            "",
            "callback",
            "/callback",
            "caller.example/callback",
            "http://",
            "http:///callback",
            "http://:80/",
            "ftp://caller.example/",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://user:password@caller.example/",
            "http://user@caller.example/",
            "http://caller.example@127.0.0.1/",
            "http://caller.example:0/",
            "http://caller.example:65536/",
            "http://caller.example:http/",
            "http://caller.example/a b",
            "http://caller.example/\r\nX-Injected: 1",
            "http://caller.example/\x00",
            "http://caller.example\\@127.0.0.1/",
            "http://caller.example./",
            "http://caller..example/",
            "http://[::1/",
            "http://[fe80::1%25eth0]/",
            "https://caller.example/" + "a" * 2026,
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://0.0.0.0/",
            "http://10.1.2.3/",
            "http://172.16.0.1/",
            "http://192.168.0.1/",
            "http://100.64.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::1]/",
            "http://[::]/",
            "http://[fd00::1]/",
            "http://[fe80::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
        )
    },
    **{
        f"callback_url {value!r}": (having(callbackUrl=value), "callback_url")
        for value in (None, 5, True, ["https://caller.example/"], {"url": "https://caller.example/"})
    },
    **{
        f"ttl_seconds {value!r}": (having(ttlSeconds=value), "ttl_seconds")
        for value in (0, -1, 86_401, 10**400, True, "60", "", 60.5, [60], float("nan"), float("inf"))
    },
}

WHOLE_BODY = {
    "empty body": raw(b""),
    "blank body": raw(b"  \n"),
    "truncated": raw(b'{"stationId": '),
    "single quotes": raw(b"{'stationId': 1}"),
    "trailing comma": raw(b'{"stationId": 1,}'),
    "two objects": raw(b"{}{}"),
    "not UTF-8": raw(b'{"stationId": "\xff\xfe"}'),
    "NUL bytes": raw(b"\x00" * 100),
    "NUL byte inside": raw(b'{"stationId": "\x00"}'),
    "deep array": raw(b"[" * 16_000),
    "deep object": raw(b'{"a":' * 3_000),
    "deep and closed": raw(b"[" * 8_000 + b"]" * 8_000),
    "a number of many digits": raw(b'{"ttlSeconds": ' + b"9" * 10_000 + b"}"),
    "array": raw(b"[]"),
    "array of requests": raw(json.dumps([GOOD]).encode()),
    "string": raw(b'"station"'),
    "number": raw(b"1"),
    "true": raw(b"true"),
    "null": raw(b"null"),
    "empty and chunked": chunked(b""),
}

ELSEWHERE: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "body over the limit": ("POST", API, raw(padded(SMALL_LIMIT + 1)), 413),
    "body far over the limit": ("POST", API, raw(padded(10 * SMALL_LIMIT)), 413),
    "chunked body over the limit": ("POST", API, chunked(padded(SMALL_LIMIT + 1)), 413),
    "chunked body far over the limit": ("POST", API, chunked(padded(10 * SMALL_LIMIT)), 413),
    "no content type": ("POST", API, raw(json.dumps(GOOD).encode(), None), 415),
    "nothing at all": ("POST", API, {}, 415),
    "text": ("POST", API, raw(json.dumps(GOOD).encode(), "text/plain"), 415),
    "a form": ("POST", API, {"data": {"stationId": GOOD["stationId"]}}, 415),
    "content type without sense": ("POST", API, raw(json.dumps(GOOD).encode(), "json"), 415),
    "authorize without content type": ("POST", "/internal/v1/authorize", {}, 415),
    "authorize without a field": ("POST", "/internal/v1/authorize", {"json": {"station_id": "1"}}, 400),
    "authorize with an array": ("POST", "/internal/v1/authorize", {"json": []}, 400),
    "page of no requests": ("GET", f"{API}?limit=0", {}, 400),
    "page too long": ("GET", f"{API}?limit=201", {}, 400),
    "page of words": ("GET", f"{API}?limit=many", {}, 400),
    "unknown cursor": ("GET", f"{API}?cursor=5", {}, 400),
    "unknown state": ("GET", f"{API}?state=lost", {}, 400),
    "station that is none": ("GET", f"{API}?stationId=here", {}, 400),
    "unknown query": ("GET", f"{API}?colour=red", {}, 400),
    "query that is no UTF-8": ("GET", API, {"environ_overrides": {"QUERY_STRING": "state=\xff"}}, 400),
    "unknown request": ("GET", f"{API}/{UNKNOWN_ID}", {}, 404),
    "request id without sense": ("GET", f"{API}/%00", {}, 404),
    "redelivery of an unknown request": ("POST", f"{API}/{UNKNOWN_ID}/redelivery", {}, 404),
    "unknown path": ("GET", "/api/v1/charging-sessions", {}, 404),
    "unknown path below a request": ("GET", f"{API}/{UNKNOWN_ID}/events", {}, 404),
    "unknown version": ("POST", "/api/v2/charging-session", {"json": GOOD}, 404),
    "unknown static file": ("GET", "/static/../../secrets.json", {}, 404),
}

WRONG_METHODS = {
    ("PUT", API): {"GET", "POST"},
    ("DELETE", API): {"GET", "POST"},
    ("PATCH", API): {"GET", "POST"},
    ("POST", f"{API}/{UNKNOWN_ID}"): {"GET"},
    ("DELETE", f"{API}/{UNKNOWN_ID}"): {"GET"},
    ("GET", f"{API}/{UNKNOWN_ID}/redelivery"): {"POST"},
    ("GET", "/internal/v1/authorize"): {"POST"},
    ("POST", "/health"): {"GET"},
    ("DELETE", "/metrics"): {"GET"},
    ("POST", "/"): {"GET"},
}

CASES: dict[str, tuple[str, str, dict[str, Any], int, set[str] | None]] = {
    **{name: ("POST", API, sent, 400, {field}) for name, (sent, field) in ONE_FIELD.items()},
    **{name: ("POST", API, sent, 400, None) for name, sent in WHOLE_BODY.items()},
    **{name: (*case, None) for name, case in ELSEWHERE.items()},
    **{f"{method} {path}": (method, path, {}, 405, None) for method, path in WRONG_METHODS},
    "everything missing": ("POST", API, {"json": {}}, 400, {"station_id", "driver_token", "callback_url"}),
}


@pytest.fixture(scope="module")
def shared_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """For refusals only: nothing of them is stored, so they cannot disturb each other."""
    data_dir = tmp_path_factory.mktemp("api")
    settings = load_settings({"CHARGEAPP_DATA_DIR": str(data_dir)}, data_dir / "chargeapp.toml")
    runtime = Runtime(settings)
    schema.upgrade(runtime.database)
    yield create_app(settings).test_client()
    runtime.database.close()


@pytest.mark.parametrize("case", CASES)
def test_every_refusal_has_its_status_code_and_the_one_shape(shared_api: FlaskClient, case: str) -> None:
    method, path, sent, code, fields = CASES[case]
    stored = shared_api.get(API).get_json()["requests"]

    answer = shared_api.open(path, method=method, **sent)

    body = answer.get_json()
    assert answer.status_code == code, body
    assert set(body) - {"errors"} == ERROR_FIELDS
    assert body["status"] != "accepted"
    assert body["message"].strip()
    assert abs(body["timestamp"] - time.time() * 1000) < 60_000
    if fields is not None:
        assert body["status"] == "validation_error"
        assert set(body["errors"]) == fields
        assert body["message"] in [message for messages in body["errors"].values() for message in messages]
    if code == 405:
        assert WRONG_METHODS[method, path] <= {each.strip() for each in answer.headers["Allow"].split(",")}
    assert shared_api.get(API).get_json()["requests"] == stored


def test_a_bad_station_is_answered_in_the_words_of_the_contract(api: FlaskClient) -> None:
    body = api.post(API, json=GOOD | {"stationId": "station-1"}).get_json()

    message = "Invalid station_id format. Must be a valid UUID."
    assert (body["status"], body["message"]) == ("validation_error", message)
    assert body["errors"] == {"station_id": [message]}


@pytest.mark.parametrize(
    "sent",
    [
        {"json": GOOD},
        {"json": GOOD | {"ttlSeconds": 1}},
        {"json": GOOD | {"ttlSeconds": 86_400}},
        {"json": GOOD | {"driverToken": "aZ09-._~" * 10}},
        {"json": GOOD | {"stationId": "123E4567E89B12D3A456426614174000"}},
        {"json": GOOD | {"callbackUrl": "https://caller.example/" + "a" * 2025}},
        raw(padded(SMALL_LIMIT)),
        chunked(padded(SMALL_LIMIT)),
        raw(json.dumps(GOOD).encode(), "application/json; charset=utf-8"),
    ],
    ids=["plain", "ttl 1", "ttl 86400", "token 80", "uuid", "url 2048", "16 KiB", "16 KiB chunked", "charset"],
)
def test_what_is_just_within_the_limits_is_accepted(api: FlaskClient, sent: dict[str, Any]) -> None:
    answer = api.post(API, **sent)

    assert answer.status_code == 200, answer.get_json()
    assert answer.get_json()["status"] == "accepted"


def test_short_tokens_are_accepted_where_the_operator_says_so(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(DRIVER_TOKEN_MIN_LENGTH="8")

    assert api.post(API, json=GOOD | {"driverToken": "04A2B3C4"}).status_code == 200
    assert api.post(API, json=GOOD | {"driverToken": "04A2B3C"}).status_code == 400


def test_private_addresses_are_accepted_where_the_operator_says_so(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(CALLBACK_ALLOWED_NETWORKS="10.1.0.0/16")

    assert api.post(API, json=GOOD | {"callbackUrl": "http://10.1.2.3/"}).status_code == 200
    assert api.post(API, json=GOOD | {"callbackUrl": "http://10.2.2.3/"}).status_code == 400


def test_the_same_key_and_body_get_the_first_answer_again(api: FlaskClient) -> None:
    key = {"Idempotency-Key": "order-1"}
    first = api.post(API, json=GOOD, headers=key)
    other_spelling = dict(zip(("station_id", "driver_token", "callback_url"), GOOD.values(), strict=True))

    again = api.post(API, json=other_spelling, headers=key)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.get_json() == first.get_json()
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len(api.get(API).get_json()["requests"]) == 1


def test_the_same_key_with_another_body_is_refused(api: FlaskClient) -> None:
    key = {"Idempotency-Key": "order-1"}
    api.post(API, json=GOOD, headers=key)

    answer = api.post(API, json=GOOD | {"ttlSeconds": 60}, headers=key)

    assert answer.status_code == 422
    assert set(answer.get_json()) == ERROR_FIELDS
    assert len(api.get(API).get_json()["requests"]) == 1


@pytest.mark.parametrize("key", ["", "a" * 256], ids=["empty", "256 characters"])
def test_a_key_of_the_wrong_length_is_refused(api: FlaskClient, key: str) -> None:
    answer = api.post(API, json=GOOD, headers={"Idempotency-Key": key})

    assert answer.status_code == 400
    assert set(answer.get_json()) == ERROR_FIELDS | {"errors"}


def test_the_longest_key_is_remembered(api: FlaskClient) -> None:
    key = {"Idempotency-Key": "a" * 255}
    api.post(API, json=GOOD, headers=key)

    assert api.post(API, json=GOOD, headers=key).headers["Idempotency-Replayed"] == "true"


def test_a_refused_request_uses_up_no_key(api: FlaskClient) -> None:
    key = {"Idempotency-Key": "order-1"}
    api.post(API, json=GOOD | {"ttlSeconds": 0}, headers=key)

    answer = api.post(API, json=GOOD, headers=key)

    assert answer.status_code == 200
    assert "Idempotency-Replayed" not in answer.headers


def test_beyond_the_size_of_the_queue_nothing_is_stored(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(QUEUE_MAX_SIZE="1")
    key = {"Idempotency-Key": "order-1"}
    first = api.post(API, json=GOOD, headers=key)

    refused = api.post(API, json=GOOD)

    assert (first.status_code, refused.status_code) == (200, 503)
    assert refused.get_json()["status"] == "queue_full"
    assert set(refused.get_json()) == ERROR_FIELDS
    assert int(refused.headers["Retry-After"]) > 0
    assert [each["requestId"] for each in api.get(API).get_json()["requests"]] == [first.get_json()["requestId"]]
    assert api.get("/metrics").get_json()["requests_total"] == 1
    assert api.post(API, json=GOOD, headers=key).headers["Idempotency-Replayed"] == "true"


def test_the_list_is_newest_first_and_its_pages_neither_overlap_nor_leave_out(api: FlaskClient) -> None:
    ids = [api.post(API, json=GOOD).get_json()["requestId"] for _ in range(5)]
    pages: list[list[str]] = []
    cursor: str | None = None
    while cursor or not pages:
        page = api.get(API, query_string={"limit": 2} | ({"cursor": cursor} if cursor else {})).get_json()
        pages.append([each["requestId"] for each in page["requests"]])
        cursor = page["cursor"]
        # What comes meanwhile belongs before the first page and moves none of the others.
        api.post(API, json=GOOD)

    assert [len(page) for page in pages] == [2, 2, 1]
    assert sorted(each for page in pages for each in page) == sorted(ids)
    assert [each for page in pages for each in page] == sorted(ids, reverse=True)


def test_the_list_is_narrowed_by_state_and_station_and_shows_no_token(api: FlaskClient) -> None:
    other = "00000000-0000-4000-8000-000000000001"
    api.post(API, json=GOOD)
    wanted = api.post(API, json=GOOD | {"stationId": other}).get_json()["requestId"]

    found = api.get(API, query_string={"state": "accepted", "stationId": other.replace("-", "").upper()})

    assert [each["requestId"] for each in found.get_json()["requests"]] == [wanted]
    assert api.get(f"{API}?state=delivered").get_json() == {"requests": [], "cursor": None}
    assert GOOD["driverToken"] not in found.text
    assert GOOD["driverToken"] not in api.get(f"{API}/{wanted}").text


def test_an_accepted_request_is_in_flight_and_cannot_be_redelivered(api: FlaskClient) -> None:
    request_id = api.post(API, json=GOOD).get_json()["requestId"]

    answer = api.post(f"{API}/{request_id}/redelivery")

    assert answer.status_code == 409
    assert set(answer.get_json()) == ERROR_FIELDS
