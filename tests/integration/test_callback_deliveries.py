"""What came of each attempt is recorded once; the retry schedule is kept to."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from support.builders import (
    DELIVERED,
    FAILED,
    NOW,
    STATION,
    TOKEN,
    Callbacks,
    Deliveries,
    accept,
    attempt,
    begin_callbacks,
    decide,
    facts,
    just_now,
    new_runtime,
    only_row,
    record,
    rows,
    seconds,
    the_request,
)

from chargeapp import __version__
from chargeapp.clock import utcnow
from chargeapp.domain import retry_policy
from chargeapp.domain.callback import Outcome, Reply
from chargeapp.runtime import Runtime
from chargeapp.storage.database import Database
from chargeapp.storage.outbox import LEASE_SECONDS
from jobs.callbacks import Callbacks as CallbacksWork

GONE = Reply(Outcome.FINAL, 5, 410, "answered 410", "gone")


@pytest.fixture(autouse=True)
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry_policy, "JITTER", 0.0)


def decided(database: Database, **changes: object) -> str:
    (request_id,) = accept(database, **changes)
    decide(database)
    return request_id


def due_at(database: Database) -> datetime:
    return only_row(database, Callbacks).due_at


def test_a_callback_carries_the_decision_and_its_body_is_the_same_on_every_attempt(database: Database) -> None:
    request_id = decided(database, callback_url="https://caller.example/hook?a=b")
    (first,) = attempt(database, FAILED)
    (second,) = attempt(database, FAILED, NOW + seconds(1))

    assert (first.url, first.destination, first.round) == ("https://caller.example/hook?a=b", "caller.example:443", 1)
    assert first.body("token") == second.body("token")
    assert first.body("token") == {
        "station_id": STATION,
        "driver_token": "token",
        "status": "allowed",
        "timestamp": 1767323045000,
        "request_id": request_id,
        "reason": None,
    }


def test_failures_are_tried_again_after_1_2_and_4_seconds_and_then_the_round_is_over(database: Database) -> None:
    request_id = decided(database)
    now, pauses = NOW, []
    while attempt(database, FAILED, now):
        if only_row(database, Callbacks).settled_at:
            break
        pauses.append(due_at(database) - now)
        now = due_at(database)

    assert pauses == [timedelta(seconds=1), timedelta(seconds=2), timedelta(seconds=4)]
    assert the_request(database, request_id).callback_attempts == 4
    event = only_row(database, Deliveries)
    assert event.type == "CallbackDeliveryFailed"
    assert event.payload == {
        "request_id": request_id,
        "round": 1,
        "reason": "undeliverable",
        "final": False,
        "error": "answered 500",
    }


def test_retry_after_makes_a_pause_longer_but_never_shorter(database: Database) -> None:
    decided(database)
    attempt(database, Reply(Outcome.RETRY, 1, 429, "answered 429", retry_after_seconds=60))
    assert due_at(database) == NOW + seconds(60)

    attempt(database, Reply(Outcome.RETRY, 1, 429, "answered 429", retry_after_seconds=0.5), NOW + seconds(60))
    assert due_at(database) == NOW + seconds(62)


def test_a_retry_after_beyond_the_end_of_the_request_ends_the_round(database: Database) -> None:
    decided(database, ttl_seconds=100)
    attempt(database, Reply(Outcome.RETRY, 1, 429, "answered 429", retry_after_seconds=100))

    assert only_row(database, Callbacks).settled_at == NOW
    assert only_row(database, Deliveries).payload["final"] is False


def test_a_delivered_callback_is_settled_with_its_event(database: Database) -> None:
    request_id = decided(database)
    attempt(database, DELIVERED, NOW + seconds(1))

    event = only_row(database, Deliveries)
    assert only_row(database, Callbacks).settled_at == NOW + seconds(1)
    assert (event.type, event.request_id) == ("CallbackDeliverySucceeded", request_id)
    assert event.payload == {"request_id": request_id, "round": 1, "http_status": 204}


def test_each_attempt_is_a_fact_of_the_timeline(database: Database) -> None:
    request_id = decided(database)
    attempt(database, FAILED)
    attempt(database, DELIVERED, NOW + seconds(1))

    failed, delivered = facts(database, request_id, "CallbackAttempted")
    assert failed.details == {
        "round": 1,
        "attempt": 1,
        "outcome": "retry",
        "http_status": 500,
        "error": "answered 500",
        "millis": 12,
    }
    assert (delivered.details["attempt"], delivered.details["outcome"]) == (2, "delivered")
    assert (failed.at, delivered.at) == (NOW, NOW + seconds(1))
    assert the_request(database, request_id).last_error is None


def test_a_final_answer_is_not_tried_again(database: Database) -> None:
    decided(database)
    attempt(database, GONE)

    event = only_row(database, Deliveries)
    assert only_row(database, Callbacks).settled_at == NOW
    assert (event.payload["reason"], event.payload["final"], event.payload["error"]) == ("gone", True, "answered 410")


def test_an_expired_decision_is_recorded_and_never_sent(database: Database) -> None:
    request_id = decided(database, ttl_seconds=60)

    assert begin_callbacks(database, NOW + seconds(60)) == []

    event = only_row(database, Deliveries)
    assert (event.type, event.payload["reason"], event.payload["final"]) == ("CallbackDeliveryFailed", "expired", True)
    assert only_row(database, Callbacks).settled_at == NOW + seconds(60)
    assert the_request(database, request_id).callback_attempts == 0


def test_a_callback_just_before_it_expires_is_sent(database: Database) -> None:
    decided(database, ttl_seconds=60)

    assert len(begin_callbacks(database, NOW + seconds(59.999))) == 1


def test_the_late_result_of_a_job_that_lost_its_row_is_noted_and_changes_nothing(database: Database) -> None:
    request_id = decided(database)
    late = begin_callbacks(database)
    fresh = begin_callbacks(database, NOW + seconds(LEASE_SECONDS))

    record(database, late, FAILED, NOW + seconds(61))
    assert due_at(database) == NOW
    record(database, fresh, DELIVERED, NOW + seconds(62))
    record(database, late, DELIVERED, NOW + seconds(63))

    assert [fact.details for fact in facts(database, request_id, "LateResultDiscarded")] == [
        {"outcome": "retry"},
        {"outcome": "delivered"},
    ]
    assert the_request(database, request_id).callback_attempts == 1
    assert len(rows(database, Deliveries)) == 1


def test_recording_nothing_changes_nothing(database: Database) -> None:
    record(database, [], DELIVERED)

    assert attempt(database) == []
    assert rows(database, Deliveries) == []


# The call itself, to a real receiver.


class Receiver(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ReceiverHandler)
        self.status, self.headers, self.arrived = 204, {}, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class ReceiverHandler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.arrived.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.server.status)
        for name, value in {"Connection": "close", "Content-Length": "0", **self.server.headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def call(runtime: Runtime, url: str) -> Reply:
    """One attempt of a decided request."""
    accept(runtime.database, now=just_now(), vault=runtime.vault, callback_url=url)
    decide(runtime.database, now=just_now())
    (callback,) = begin_callbacks(runtime.database, utcnow())
    return CallbacksWork(runtime).perform(callback).reply


def test_a_callback_is_signed_json_from_chargeapp(runtime: Runtime, receiver: Receiver) -> None:
    reply = call(runtime, receiver.url)

    ((headers, body),) = receiver.arrived
    payload = Webhook(runtime.secrets.webhook_secret).verify(body, {name.lower(): headers[name] for name in headers})
    assert (reply.outcome, reply.http_status, reply.error) == ("delivered", 204, None)
    assert headers["Content-Type"] == "application/json"
    assert headers["User-Agent"] == f"chargeapp/{__version__}"
    assert headers["webhook-id"] == payload["request_id"]
    assert (payload["driver_token"], payload["status"]) == (TOKEN, "allowed")


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_delivers(runtime: Runtime, receiver: Receiver, status: int) -> None:
    receiver.status = status

    assert call(runtime, receiver.url).outcome == "delivered"


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
def test_everything_else_may_be_tried_again_and_redirects_are_not_followed(
    runtime: Runtime, receiver: Receiver, status: int
) -> None:
    receiver.status, receiver.headers = status, {"Location": receiver.url, "Retry-After": "7"}

    reply = call(runtime, receiver.url)

    assert (reply.outcome, reply.http_status, reply.error) == ("retry", status, f"answered {status}")
    assert reply.retry_after_seconds == 7
    assert len(receiver.arrived) == 1


def test_410_is_final(runtime: Runtime, receiver: Receiver) -> None:
    receiver.status = 410

    reply = call(runtime, receiver.url)

    assert (reply.outcome, reply.reason, reply.error) == ("final", "gone", "answered 410")


def test_nobody_listening_may_be_tried_again(runtime: Runtime) -> None:
    reply = call(runtime, "http://127.0.0.1:1/hook")

    assert (reply.outcome, reply.http_status) == ("retry", None)
    assert "connection_refused" in str(reply.error)


def test_an_address_that_is_not_allowed_is_never_called(tmp_path: Path, receiver: Receiver) -> None:
    with new_runtime(tmp_path, callback_allowed_networks=()) as runtime:
        reply = call(runtime, receiver.url)

    assert (reply.outcome, reply.reason) == ("final", "blocked")
    assert receiver.arrived == []
