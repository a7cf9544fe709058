"""An external authorization service over HTTP, good and bad; no circuit breaker, so that each test starts anew."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deployment import STATION, Deployment
from servers import Answer, AuthorizationStub, Receiver

TIMEOUT_SECONDS = 3.0


@pytest.fixture(scope="module")
def service() -> Iterator[AuthorizationStub]:
    service = AuthorizationStub()
    yield service
    service.close()


@pytest.fixture(scope="module")
def asking(service: AuthorizationStub, data_dir: Callable[[], Path]) -> Iterator[Deployment]:
    with Deployment(
        data_dir(),
        AUTHORIZATION_SERVICE_URL=service.url,
        AUTHORIZATION_TIMEOUT_MILLIS=str(int(TIMEOUT_SECONDS * 1000)),
        AUTHORIZATION_MAX_RETRIES="2",
        AUTHORIZATION_CIRCUIT_BREAKER_ENABLED="false",
    ) as deployment:
        yield deployment.up()


@pytest.fixture
def callback(asking: Deployment, receiver: Receiver) -> Callable[[str], dict[str, Any]]:
    """The callback that a driver's request leads to."""

    def of(prefix: str) -> dict[str, Any]:
        path = receiver.path()
        request_id = asking.submit(f"{prefix}-driver-token-0001", receiver.url(path))
        receiver.wait_for(path)
        asking.wait_until(request_id, state="delivered")
        (arrival,) = receiver.at(path)
        found: dict[str, Any] = arrival.json
        return found

    return of


@pytest.mark.parametrize("decision", ["allowed", "not_allowed", "invalid", "unknown"])
def test_what_the_service_decides_is_what_the_caller_is_told(
    service: AuthorizationStub, callback: Callable[[str], dict[str, Any]], decision: str
) -> None:
    prefix = f"decides-{decision}"
    service.answers(prefix, decision)

    told = callback(prefix)

    assert (told["status"], told["reason"]) == (decision, None)
    (question,) = service.asked(prefix)
    assert question.json == {"station_id": STATION, "driver_token": told["driver_token"]}


def test_what_is_malformed_to_the_service_is_invalid_and_not_asked_again(
    service: AuthorizationStub, callback: Callable[[str], dict[str, Any]]
) -> None:
    service.answers("malformed", 400)

    assert callback("malformed")["status"] == "invalid"
    assert len(service.asked("malformed")) == 1


def test_a_service_that_fails_once_is_asked_again(
    service: AuthorizationStub, callback: Callable[[str], dict[str, Any]]
) -> None:
    service.answers("fails-once", 500, "allowed")

    told = callback("fails-once")

    assert (told["status"], told["reason"]) == ("allowed", None)
    first, second = service.asked("fails-once")
    assert second.at - first.at < TIMEOUT_SECONDS
    assert first.body == second.body


def test_a_service_that_takes_too_long_leaves_it_unknown(
    service: AuthorizationStub, callback: Callable[[str], dict[str, Any]]
) -> None:
    service.answers("too-slow", Answer(200, b'{"status":"allowed"}', delay_seconds=3 * TIMEOUT_SECONDS))

    told = callback("too-slow")

    assert (told["status"], told["reason"]) == ("unknown", "authorization_timeout")


NONSENSE = {
    "html": Answer(200, b"<h1>allowed</h1>"),
    "no-status": Answer(200, b'{"decision":"allowed"}'),
    "unheard-of": Answer(200, b'{"status":"ALLOWED"}'),
    "true": Answer(200, b'{"status":true}'),
    "a-word": Answer(200, b'"allowed"'),
    "no-utf8": Answer(200, b'{"status":"allowed","reason":"\xff"}'),
    "deep": Answer(200, b"[" * 20_000),
    "redirected": Answer(302, headers={"Location": "/allowed"}),
    "created": Answer(201, b'{"status":"allowed"}'),
    "failing": Answer(500, b'{"status":"allowed"}'),
    "dropped": Answer(dropped=True),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_asked_again_and_then_unknown_never_allowed(
    service: AuthorizationStub, callback: Callable[[str], dict[str, Any]], kind: str
) -> None:
    prefix = f"nonsense-{kind}"
    service.answers(prefix, NONSENSE[kind])

    told = callback(prefix)

    assert (told["status"], told["reason"]) == ("unknown", "authorization_error")
    # A kept-alive connection that ends without an answer is not a try of its own: it may just have been too old.
    resent = 1 if kind == "dropped" else 0
    assert 3 <= len(service.asked(prefix)) <= 3 + resent


def test_a_service_that_cannot_be_reached_leaves_it_unknown(
    service: AuthorizationStub, callback: Callable[[str], dict[str, Any]]
) -> None:
    with service.refusing():
        told = callback("refused")

    assert (told["status"], told["reason"]) == ("unknown", "authorization_error")
