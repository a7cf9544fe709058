"""The demo receiver over real HTTP: as `chargeapp up` runs it, and in this process for its corners."""

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests
from standardwebhooks import Webhook

from chargeapp.commands.demo_receiver import (
    REMEMBERED,
    CallbackLog,
    DemoServer,
    mask,
    run_demo_receiver,
    signature_is_valid,
)
from chargeapp.errors import MisconfiguredError

DEADLINE_SECONDS = 20
SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
TOKEN = "TOKEN-that-nobody-may-see-0001"
RUN = (
    "import sys; from chargeapp.commands.demo_receiver import run_demo_receiver;"
    "run_demo_receiver(int(sys.argv[1]), sys.argv[2], 'curl <&> paste me')"
)


class Receiver:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.session = requests.Session()
        self.session.trust_env = False

    def send(self, request_id: str = "req-1", *, signature: str | None = None, **changes: object) -> int:
        """Send a callback as chargeapp does, signed by the published library; answer the status."""
        content = {
            "station_id": "5a1f3c9e-0f7b-4a38-9d55-2f6f1f6a9b01",
            "driver_token": TOKEN,
            "status": "allowed",
            "timestamp": round(time.time() * 1000) - 25,
            "request_id": request_id,
            "reason": None,
        } | changes
        body = json.dumps(content)
        now = datetime.now(UTC)
        headers = {
            "webhook-id": request_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": signature or Webhook(SECRET).sign(request_id, now, body),
        }
        return self.session.post(f"{self.url}/callback", data=body, headers=headers, timeout=5).status_code

    def get(self, path: str) -> requests.Response:
        return self.session.get(self.url + path, timeout=5)

    def callbacks(self) -> list[dict[str, object]]:
        shown: list[dict[str, object]] = self.get("/callbacks.json").json()["callbacks"]
        return shown


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def running(example: str = "") -> Iterator[Receiver]:
    with DemoServer(0, CallbackLog(SECRET), example) as server:
        listener = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        listener.start()
        receiver = Receiver(server.server_port)
        try:
            yield receiver
        finally:
            server.shutdown()
            listener.join()
    # After the server, which must not wait for connections that are kept alive.
    receiver.session.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running() as receiver:
        yield receiver


def test_it_shows_what_arrived_until_sigterm() -> None:
    receiver = Receiver(free_port())
    command = [sys.executable, "-W", "error", "-c", RUN, str(receiver.port), SECRET]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until_it_answers(receiver, process)
        empty_page = receiver.get("/").text

        status = receiver.send(reason="not_in_acl", status="not_allowed")

        page = receiver.get("/").text
        process.terminate()
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    receiver.session.close()
    assert status == 204
    assert "curl &lt;&amp;&gt; paste me" in empty_page
    assert all(text in page for text in ("not_allowed", "not_in_acl", "req-1", "5a1f3c9e", "TOKE…0001", ">valid<"))
    assert process.returncode == 0
    assert "Traceback" not in errors


def wait_until_it_answers(receiver: Receiver, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            receiver.get("/")
            return
        except requests.ConnectionError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_driver_token_is_masked_everywhere(receiver: Receiver) -> None:
    receiver.send()

    answers = [receiver.get("/").text, receiver.get("/callbacks.json").text]

    assert not any(TOKEN in answer for answer in answers)
    assert receiver.callbacks()[0]["token"] == "TOKE…0001"


@pytest.mark.parametrize(
    ("signature", "shown"), [(None, "valid"), ("v1,bm90IHRoZSByaWdodCBvbmU=", "invalid"), ("nonsense", "invalid")]
)
def test_the_signature_is_verified(receiver: Receiver, signature: str | None, shown: str) -> None:
    receiver.send(signature=signature)

    assert receiver.callbacks()[0]["signature"] == shown
    assert f'data-signature="{shown}"' in receiver.get("/").text


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "secret"])
def test_a_signature_holds_for_one_message_at_its_time(changed: str) -> None:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "req-1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": "v1,b2xkIGtleQ== " + Webhook(SECRET).sign("req-1", now, "{}"),
    }
    assert signature_is_valid(SECRET, headers, b"{}", now=now)

    body = b"[]" if changed == "body" else b"{}"
    secret = "whsec_" + base64.b64encode(b"b" * 32).decode() if changed == "secret" else SECRET
    headers |= {changed: "7"} if changed.startswith("webhook") else {}

    assert not signature_is_valid(secret, headers, body, now=now)


@pytest.mark.parametrize("age", [timedelta(minutes=6), timedelta(minutes=-6)])
def test_an_old_signature_is_invalid(age: timedelta) -> None:
    sent_at = datetime.now(UTC)
    headers = {
        "webhook-id": "req-1",
        "webhook-timestamp": str(int(sent_at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("req-1", sent_at, "{}"),
    }

    assert not signature_is_valid(SECRET, headers, b"{}", now=sent_at + age)


def test_attempts_of_one_request_are_counted(receiver: Receiver) -> None:
    for request_id in ("req-1", "req-2", "req-1"):
        receiver.send(request_id)

    assert [(each["request_id"], each["attempt"]) for each in receiver.callbacks()] == [
        ("req-1", 2),
        ("req-2", 1),
        ("req-1", 1),
    ]


def test_the_newest_are_kept(receiver: Receiver) -> None:
    for number in range(REMEMBERED + 1):
        receiver.send(f"req-{number}")

    shown = receiver.get("/callbacks.json").json()

    assert shown["total"] == REMEMBERED + 1
    assert len(shown["callbacks"]) == REMEMBERED
    assert shown["callbacks"][0]["request_id"] == f"req-{REMEMBERED}"
    assert "the newest 200 are kept" in receiver.get("/").text


@pytest.mark.parametrize(
    ("decided_at", "shown"),
    [(lambda now: now - 25, " ms after the decision"), (lambda now: now - 2500, "2.5 s after the decision")],
)
def test_it_tells_how_long_the_callback_took(receiver: Receiver, decided_at: object, shown: str) -> None:
    assert callable(decided_at)
    receiver.send(timestamp=decided_at(round(time.time() * 1000)))

    assert str(receiver.callbacks()[0]["after"]).endswith(shown)


@pytest.mark.parametrize("timestamp", [None, True, "soon", 0, 10**15])
def test_a_useless_timestamp_is_left_out(receiver: Receiver, timestamp: object) -> None:
    receiver.send(timestamp=timestamp)

    assert receiver.callbacks()[0]["after"] == ""


def test_what_arrives_cannot_become_markup(receiver: Receiver) -> None:
    receiver.send(station_id="<script>alert(1)</script>", status="<b>", reason=["<i>"])

    page = receiver.get("/").text

    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert receiver.callbacks()[0]["status_class"] == "other"


@pytest.mark.parametrize("path", ["/", "/?a=b", "/live.js", "/style.css", "/icon.svg", "/callbacks.json", "/missing"])
def test_every_answer_has_a_strict_policy(receiver: Receiver, path: str) -> None:
    answer = receiver.get(path)

    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.status_code == (404 if path == "/missing" else 200)


def test_the_page_obeys_its_own_policy(receiver: Receiver) -> None:
    receiver.send()
    page = receiver.get("/").text

    assert "<style" not in page
    assert "style=" not in page
    assert page.count("<script") == page.count('<script src="/live.js" defer></script>') == 1


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/callback", b"not json", {}, 400),
        ("/callback", b"[]", {}, 400),
        ("/callback", b"\xff", {}, 400),
        ("/elsewhere", b"{}", {}, 404),
        ("/callback", b"x" * (64 * 1024 + 1), {}, 413),
        ("/callback", iter([b"{}"]), {}, 411),
    ],
)
def test_other_posts_are_refused(
    receiver: Receiver, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = receiver.session.post(receiver.url + path, data=body, headers=headers, timeout=5)

    assert answer.status_code == status
    assert receiver.callbacks() == []


def test_other_methods_are_refused(receiver: Receiver) -> None:
    assert receiver.session.delete(f"{receiver.url}/callback", timeout=5).status_code == 501


def test_connections_are_kept_alive(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as connection:
        for _ in range(2):
            connection.sendall(b"POST /callback HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")

            assert connection.recv(4096).startswith(b"HTTP/1.1 204")


def test_a_sender_that_goes_away_is_no_fault(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.sendall(b"POST /callback HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{")

    assert receiver.send() == 204


def test_a_fault_of_ours_is_logged(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(requests.ConnectionError):
        receiver.session.post(f"{receiver.url}/callback", data="[" * 60_000, timeout=5)

    assert receiver.send() == 204
    assert "demo_receiver_failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("token", "shown"), [("", ""), ("short", "…"), ("x" * 12, "…"), ("abcdefghijklm", "abcd…jklm")]
)
def test_short_tokens_are_hidden_altogether(token: str, shown: str) -> None:
    assert mask(token) == shown


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(MisconfiguredError, match=f"PORT: .*{port}"):
            run_demo_receiver(port, SECRET)


def test_it_leaves_signals_as_they_were() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        signal.pthread_kill(
            threading.get_ident(), signal.SIGTERM
        )  # waiting already, so that it stops as soon as it listens
        run_demo_receiver(0, SECRET)

        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
