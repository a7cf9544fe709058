"""The API on PostgreSQL: what it cannot store or look up is answered as on SQLite, never with a 500."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from support.builders import new_runtime
from support.callers import API, BODY, open_api

import chargeapp.app


@pytest.fixture
def api(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlaskClient]:
    with new_runtime(tmp_path, database_url=database_url) as runtime:
        # So that its connections are closed at the end.
        monkeypatch.setattr(chargeapp.app, "Runtime", lambda _: runtime)
        yield open_api(runtime)


@pytest.mark.parametrize("odd", ["%00", "req-%00", "x" * 5000, "%F0%9F%94%8C", "%ED%A0%80"])
def test_an_odd_id_is_not_found(api: FlaskClient, odd: str) -> None:
    assert api.get(f"{API}/{odd}").status_code == 404
    assert api.post(f"{API}/{odd}/redelivery").status_code == 404


@pytest.mark.parametrize("odd", ["%00", "req-%00", "x" * 5000, "%F0%9F%94%8C"])
def test_an_odd_cursor_is_no_fault_of_the_server(api: FlaskClient, odd: str) -> None:
    assert api.get(f"{API}?cursor={odd}").status_code in (200, 400)


def test_a_request_is_stored_listed_and_replayed(api: FlaskClient) -> None:
    key = {"Idempotency-Key": "\u00e9" * 255}

    first = api.post(API, json=BODY, headers=key)
    again = api.post(API, json=BODY, headers=key)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json == first.json
    assert again.headers["Idempotency-Replayed"] == "true"
    assert [each["requestId"] for each in api.get(API).json["requests"]] == [first.json["requestId"]]
    assert api.get(f"{API}/{first.json['requestId']}").json["timeline"][0]["type"] == "RequestAccepted"
    assert api.get("/health").status_code == 200
    assert api.get("/metrics").json["requests_total"] == 1
