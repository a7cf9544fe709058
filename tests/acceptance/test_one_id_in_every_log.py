"""One request id from POST to callback: whoever looks for it in the logs of all processes finds the whole story."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import Deployment
from servers import Receiver
from sqlalchemy import update

from chargeapp.storage.models import SessionRequest

Line = dict[str, Any]
LAST = ("worker delivery-events", "callback_delivery_succeeded")
DRIVER = "driver-token-that-no-log-may-show-1"


@pytest.fixture(scope="module")
def talkative(data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    settings = {"LOG_LEVEL": "debug", "CALLBACK_RETRY_DELAY_MILLIS": "10", "CALLBACK_MAX_RETRIES": "1"}
    with Deployment(data_dir(), **settings) as deployment:
        yield deployment.up()


def lines(text: str) -> list[Line]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def since(deployment: Deployment, length: int) -> list[Line]:
    return lines(deployment.output()[length:])


def told(log: list[Line], request_id: str) -> list[tuple[str, str]]:
    """Process and action of each line with this id."""
    return [(line["process"], line["action"]) for line in log if line.get("request_id") == request_id]


def test_each_stage_has_a_line_and_no_line_lacks_the_id(talkative: Deployment, receiver: Receiver) -> None:
    before = len(talkative.output())
    path = receiver.path()

    request_id = talkative.submit(DRIVER, receiver.url(path))
    receiver.wait_for(path)
    talkative.until(lambda: LAST in told(since(talkative, before), request_id), "the end is not told")

    log = since(talkative, before)
    assert set(told(log, request_id)) == {
        ("web", "request_accepted"),
        ("relay", "row_published"),
        ("worker authorization", "authorization_decided"),
        ("worker callbacks", "callback_attempted"),
        LAST,
    }
    # The relay may say that the topics of a new Kafka have no leaders yet.
    others = [line for line in log if line.get("request_id") != request_id]
    assert [line for line in others if line["action"] not in ("relay_hindered", "relay_back")] == []
    assert DRIVER not in talkative.output()


def test_retries_the_bad_end_and_the_redelivery_have_the_same_id(talkative: Deployment, receiver: Receiver) -> None:
    before = len(talkative.output())
    path = receiver.path(500, 410, 204)
    request_id = talkative.submit(DRIVER, receiver.url(path))
    talkative.wait_until(request_id, state="failed")

    talkative.post(f"/{request_id}/redelivery")
    talkative.wait_until(request_id, state="delivered")

    def story() -> list[Line]:
        return [line for line in since(talkative, before) if line.get("request_id") == request_id]

    talkative.until(lambda: story()[-1]["action"] == "callback_delivery_succeeded", "the end is not told")
    attempts = [line for line in story() if line["action"] == "callback_attempted"]
    assert [(line["outcome"], line["http_status"]) for line in attempts] == [
        ("retry", 500),
        ("final", 410),
        ("delivered", 204),
    ]
    assert {"callback_delivery_failed", "redelivery_requested"} <= {line["action"] for line in story()}
    assert [line for line in since(talkative, before) if line.get("request_id") != request_id] == []


def test_a_request_that_is_answered_again_is_told_with_the_first_id(talkative: Deployment, receiver: Receiver) -> None:
    before = len(talkative.output())
    body = {"stationId": "123e4567-e89b-12d3-a456-426614174000", "driverToken": DRIVER}
    body["callbackUrl"] = receiver.url(receiver.path())
    first, second = (talkative.post(json=body, headers={"Idempotency-Key": "once"}).json() for _ in range(2))

    talkative.until(lambda: "request_answered_again" in talkative.output()[before:], "not told")

    assert first["requestId"] == second["requestId"]
    assert ("web", "request_answered_again") in told(since(talkative, before), first["requestId"])


def test_a_dead_letter_is_told_with_the_id(talkative: Deployment, receiver: Receiver) -> None:
    """Its token was sealed with a key that nobody has any more."""
    before = len(talkative.output())
    path = receiver.path()
    with talkative.nothing_restarts():
        talkative.kill("worker authorization")
        request_id = talkative.submit(DRIVER, receiver.url(path))
        with talkative.runtime.database.writing() as session:
            session.execute(update(SessionRequest).where(SessionRequest.id == request_id).values(token_sealed=b"\0"))

    talkative.until(lambda: "row_buried" in talkative.output()[before:], "no dead letter")

    actions = [action for _, action in told(since(talkative, before), request_id)]
    assert {"call_failed", "row_buried"} <= set(actions)


def test_every_id_in_the_log_is_in_the_field(talkative: Deployment) -> None:
    """None is hidden in a sentence or in another field."""
    for line in lines(talkative.output()):
        rest = {name: value for name, value in line.items() if name != "request_id"}
        assert re.search(r"req-[0-9a-f]{32}", json.dumps(rest)) is None, line
