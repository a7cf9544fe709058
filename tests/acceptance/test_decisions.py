"""The main way: a request, a decision by the built-in access list, a signed callback."""

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from deployment import STATION, Deployment
from servers import Arrival, Receiver
from standardwebhooks import Webhook

from chargeapp import __version__

numbers = count()


def new_token() -> str:
    return f"driver-token-of-decisions-{next(numbers):04}"


def decided(chargeapp: Deployment, receiver: Receiver, token: str, **more: Any) -> Arrival:
    path = receiver.path()
    request_id = chargeapp.submit(token, receiver.url(path), **more)
    chargeapp.wait_until(request_id, state="delivered")
    (arrival,) = receiver.at(path)
    return arrival


def test_a_driver_in_the_list_is_allowed(chargeapp: Deployment, receiver: Receiver) -> None:
    token = new_token()
    chargeapp.allow(token)

    callback = decided(chargeapp, receiver, token)

    assert (callback.json["status"], callback.json["reason"]) == ("allowed", None)


def test_a_driver_who_is_not_in_the_list_is_not_allowed(chargeapp: Deployment, receiver: Receiver) -> None:
    callback = decided(chargeapp, receiver, new_token())

    assert (callback.json["status"], callback.json["reason"]) == ("not_allowed", "not_in_acl")


def test_a_blocked_driver_is_not_allowed(chargeapp: Deployment, receiver: Receiver) -> None:
    token = new_token()
    chargeapp.allow(token, blocked=True)

    callback = decided(chargeapp, receiver, token)

    assert (callback.json["status"], callback.json["reason"]) == ("not_allowed", "blocked")


def test_the_callback_has_exactly_the_fields_and_headers_of_the_contract(
    chargeapp: Deployment, receiver: Receiver
) -> None:
    token, path = new_token(), receiver.path()
    chargeapp.allow(token)

    request_id = chargeapp.submit(token, receiver.url(path))
    (callback,) = receiver.wait_for(path)

    shown = chargeapp.wait_until(request_id, state="delivered")
    timestamp = callback.json["timestamp"]
    assert callback.json == {
        "station_id": STATION,
        "driver_token": token,
        "status": "allowed",
        "timestamp": timestamp,
        "request_id": request_id,
        "reason": None,
    }
    assert isinstance(timestamp, int)
    assert shown["decidedAt"].startswith(_iso(timestamp))
    expected = {
        "content-type": "application/json",
        "user-agent": f"chargeapp/{__version__}",
        "webhook-id": request_id,
        "host": f"127.0.0.1:{receiver.port}",
        "content-length": str(len(callback.body)),
    }
    assert {name: callback.headers.get(name) for name in expected} == expected
    assert set(callback.headers) - set(expected) - {"accept-encoding", "connection", "accept"} == {
        "webhook-timestamp",
        "webhook-signature",
    }


def test_the_published_verifier_accepts_the_signature(chargeapp: Deployment, receiver: Receiver) -> None:
    callback = decided(chargeapp, receiver, new_token())

    verified = Webhook(chargeapp.runtime.secrets.webhook_secret).verify(callback.body, callback.headers)

    assert verified == callback.json


def test_the_callback_arrives_in_under_a_second(chargeapp: Deployment, receiver: Receiver) -> None:
    decided(chargeapp, receiver, new_token())  # so that nothing is done for the first time
    path = receiver.path()

    chargeapp.submit(new_token(), receiver.url(path))

    assert len(receiver.wait_for(path, deadline_seconds=1.0)) == 1


@pytest.mark.parametrize("spelling", ["camelCase", "snake_case"])
def test_both_spellings_are_understood(chargeapp: Deployment, receiver: Receiver, spelling: str) -> None:
    token, path = new_token(), receiver.path()
    camel = {"stationId": STATION, "driverToken": token, "callbackUrl": receiver.url(path), "ttlSeconds": 60}
    snake = dict(zip(("station_id", "driver_token", "callback_url", "ttl_seconds"), camel.values(), strict=True))

    answer = chargeapp.post(json=camel if spelling == "camelCase" else snake)

    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "message", "requestId", "timestamp"}
    (callback,) = receiver.wait_for(path)
    assert (callback.json["station_id"], callback.json["driver_token"]) == (STATION, token)


def test_a_chunked_body_over_the_limit_is_refused_on_the_wire_too(chargeapp: Deployment) -> None:
    answer = chargeapp.post(data=iter([b" " * 8_192] * 3), headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["status"]) == (413, "payload_too_large")


def _iso(epoch_millis: int) -> str:
    return datetime.fromtimestamp(epoch_millis // 1000, UTC).isoformat()[:19]
