"""An external authorization service: real calls, every kind of answer, one deadline, a breaker."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.builders import (
    STATION,
    TOKEN,
    Requests,
    accept,
    claim_and_take,
    eventually,
    new_runtime,
    own_rows,
    seconds,
)

from chargeapp.clock import utcnow
from chargeapp.domain.authorization import Answer, Inquiry
from chargeapp.outbound.access_list import AccessList
from chargeapp.outbound.authorization_service import AuthorizationService
from chargeapp.outbound.circuit_breaker import CircuitBreaker
from chargeapp.outbound.http_client import HttpClient
from jobs.authorization import Authorization

Authorize = Callable[..., Answer]


class Stub(ThreadingHTTPServer):
    """Answers in turn with (status, body); the last answer is given for ever. None hangs."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, bytes] | None] = []
        self.asked: list[Any] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/authorize"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            self.server.closing.wait(20)
            return
        status, content = answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            """The client has gone."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.closing.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def authorize(stub: Stub) -> Iterator[Authorize]:
    client = HttpClient(policy=None, pool_size=4)

    def ask(
        *answers: tuple[int, bytes] | None, retries: int = 0, timeout: float = 5, breaker: CircuitBreaker | None = None
    ) -> Answer:
        stub.answers = list(answers)
        now = utcnow()
        inquiry = Inquiry(STATION, TOKEN, "hash", now + seconds(timeout))
        return AuthorizationService(stub.url, client, retries, breaker).authorize(inquiry, now)

    yield ask
    client.close()


def says(**answer: Any) -> tuple[int, bytes]:
    return 200, json.dumps(answer).encode()


@pytest.mark.parametrize("status", ["allowed", "not_allowed", "unknown", "invalid"])
def test_each_status_is_the_decision(authorize: Authorize, status: str) -> None:
    answer = authorize(says(status=status))

    assert (answer.decision, answer.reason, answer.source, answer.tries) == (status, None, "authorization_service", 1)
    assert answer.millis >= 0


def test_the_reason_and_more_fields_may_come_with_it(authorize: Authorize) -> None:
    answer = authorize(says(station_id=STATION, status="not_allowed", reason="no_credit", tariff=7))

    assert (answer.decision, answer.reason) == ("not_allowed", "no_credit")


def test_the_service_is_asked_with_station_and_token_as_json(authorize: Authorize, stub: Stub) -> None:
    authorize(says(status="allowed"))

    ((path, headers, body),) = stub.asked
    assert path == "/authorize"
    assert headers["Content-Type"] == "application/json"
    assert body == {"station_id": STATION, "driver_token": TOKEN}


@pytest.mark.parametrize("status", [400, 422])
def test_what_is_malformed_to_the_service_is_invalid(authorize: Authorize, stub: Stub, status: int) -> None:
    assert authorize((status, b""), retries=3).decision == "invalid"
    assert len(stub.asked) == 1


def test_a_failure_is_tried_again_within_the_deadline(authorize: Authorize, stub: Stub) -> None:
    answer = authorize((500, b""), says(status="allowed"), retries=3)

    assert (answer.decision, answer.tries) == ("allowed", 2)
    assert len(stub.asked) == 2


def test_the_answer_says_why_tries_failed(authorize: Authorize, stub: Stub) -> None:
    answer = authorize((500, b""), (200, b"no JSON"), says(status="allowed"), retries=3)

    assert answer.failures == (
        "The authorization service answered 500",
        "The authorization service answered nonsense",
    )
    assert authorize(says(status="allowed")).failures == ()


def test_after_the_last_retry_it_is_unknown(authorize: Authorize, stub: Stub) -> None:
    answer = authorize((503, b""), retries=2)

    assert (answer.decision, answer.reason, answer.tries) == ("unknown", "authorization_error", 3)
    assert len(stub.asked) == 3


NONSENSE = {
    "nothing": b"",
    "not JSON": b"<html>",
    "not UTF-8": b'{"status": "\xff"}',
    "another status": b'{"status": "maybe"}',
    "no status": b"{}",
    "a null status": b'{"status": null}',
    "a list": b'["allowed"]',
    "a text": b'"allowed"',
    "a nested status": b'{"status": {"is": "allowed"}}',
    "a list of statuses": b'{"status": ["allowed"]}',
    "a long reason": json.dumps({"status": "allowed", "reason": "x" * 201}).encode(),
    "a reason that is a number": b'{"status": "allowed", "reason": 7}',
    "deeply nested": b"[" * 50_000,
    "oversize": b'{"status": "allowed", "padding": "' + b"x" * 100_000 + b'"}',
}


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_is_unknown_never_a_guess(authorize: Authorize, name: str) -> None:
    answer = authorize((200, NONSENSE[name]))

    assert (answer.decision, answer.reason) == ("unknown", "authorization_error")


@pytest.mark.parametrize("status", [201, 204, 301, 401, 404, 410])
def test_any_other_answer_is_unknown(authorize: Authorize, status: int) -> None:
    body = b"" if status == 204 else b'{"status": "allowed"}'

    assert authorize((status, body)).decision == "unknown"


def test_a_service_that_hangs_is_unknown_by_the_deadline(authorize: Authorize) -> None:
    began = time.monotonic()

    answer = authorize(None, retries=3, timeout=0.4)

    assert (answer.decision, answer.reason) == ("unknown", "authorization_timeout")
    assert 0.35 < time.monotonic() - began < 2


def test_one_deadline_holds_for_all_tries_together(authorize: Authorize, stub: Stub) -> None:
    began = time.monotonic()

    answer = authorize((500, b""), retries=20, timeout=0.5)

    assert answer.decision == "unknown"
    assert time.monotonic() - began < 1
    assert 2 <= len(stub.asked) <= 4


def test_a_deadline_that_has_passed_costs_no_call(authorize: Authorize, stub: Stub) -> None:
    answer = authorize(says(status="allowed"), timeout=-1)

    assert (answer.decision, answer.reason, answer.tries) == ("unknown", "authorization_timeout", 0)
    assert stub.asked == []


def test_nobody_listening_is_unknown(stub: Stub) -> None:
    client = HttpClient(policy=None, pool_size=1)
    now = utcnow()
    inquiry = Inquiry(STATION, TOKEN, "hash", now + seconds(5))

    answer = AuthorizationService("http://127.0.0.1:1/", client, 0, None).authorize(inquiry, now)

    assert (answer.decision, answer.reason) == ("unknown", "authorization_error")
    client.close()


def test_an_open_breaker_answers_at_once_without_a_call(authorize: Authorize, stub: Stub) -> None:
    breaker = CircuitBreaker()
    for _ in range(5):
        authorize((500, b""), breaker=breaker)

    answer = authorize(says(status="allowed"), retries=3, breaker=breaker)

    assert (answer.decision, answer.reason, answer.tries) == ("unknown", "circuit_open", 0)
    assert len(stub.asked) == 5


def test_a_breaker_that_opens_between_two_tries_ends_them(authorize: Authorize, stub: Stub) -> None:
    breaker = CircuitBreaker(failures=2)

    answer = authorize((500, b""), retries=9, breaker=breaker)

    assert (answer.decision, answer.reason, answer.tries) == ("unknown", "circuit_open", 2)
    assert len(stub.asked) == 2


def test_denials_and_malformed_requests_open_no_breaker(authorize: Authorize) -> None:
    breaker = CircuitBreaker()
    for answer in [says(status="not_allowed"), (400, b""), says(status="unknown")] * 4:
        authorize(answer, breaker=breaker)

    assert breaker.state == "closed"


@pytest.mark.parametrize("name", NONSENSE)
def test_a_probe_that_is_answered_with_nonsense_lets_another_follow(authorize: Authorize, name: str) -> None:
    breaker = CircuitBreaker(failures=1, open_seconds=0.02)
    authorize((500, b""), breaker=breaker)
    eventually(lambda: authorize((200, NONSENSE[name]), breaker=breaker).tries)

    assert eventually(lambda: authorize(says(status="allowed"), breaker=breaker).decision == "allowed")
    assert breaker.state == "closed"


# What a process makes of its settings.


def test_without_a_url_the_built_in_list_decides_and_there_is_no_breaker(tmp_path: Path) -> None:
    with new_runtime(tmp_path) as runtime:
        assert isinstance(runtime.authorizer, AccessList)
        assert runtime.circuit_state() == ""


@pytest.mark.parametrize(("enabled", "state"), [(True, "closed"), (False, "")])
def test_with_a_url_that_service_decides_behind_a_breaker_if_wanted(
    tmp_path: Path, stub: Stub, enabled: bool, state: str
) -> None:
    stub.answers = [says(status="allowed")]
    settings = {"authorization_service_url": stub.url, "authorization_circuit_breaker_enabled": enabled}
    with new_runtime(tmp_path, **settings) as runtime:
        inquiry = Inquiry(STATION, TOKEN, "hash", utcnow() + seconds(5))
        assert runtime.authorizer.authorize(inquiry, utcnow()).decision == "allowed"
        assert runtime.circuit_state() == state


def test_a_job_does_not_ask_when_the_deadline_has_passed_while_the_row_waited(tmp_path: Path, stub: Stub) -> None:
    with new_runtime(tmp_path, authorization_service_url=stub.url) as runtime:
        accept(runtime.database, now=utcnow() - seconds(31))
        tickets = claim_and_take(runtime.database, Requests, utcnow())
        work = Authorization(runtime)
        with runtime.database.writing() as session:
            (question,) = work.take(session, own_rows(session, Requests, tickets), utcnow())

        result = work.perform(question)

    assert (result.answer.decision, result.answer.reason) == ("unknown", "authorization_timeout")
    assert (result.answer.source, work.result_ticket(result)) == ("deadline", tickets[0])
    assert stub.asked == []
