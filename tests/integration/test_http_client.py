"""The HTTP client against real receivers on loopback, most of them hostile."""

import gc
import os
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from chargeapp.errors import PermanentFailure, TemporaryFailure
from chargeapp.outbound.http_client import CallBlocked, CallFailed, HttpClient, retry_after_seconds
from chargeapp.outbound.name_lookups import THREADS_AT_MOST
from chargeapp.security.address_policy import AddressPolicy

LOOPBACK = AddressPolicy((ip_network("127.0.0.0/8"),))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b'{"driver_token": "secret-token"}'
HEADERS = {"Content-Type": "application/json"}
PATIENCE = 20  # far more than any deadline used here, far less than the receivers would go on


class Receiver:
    """Accepts on loopback and hands each connection to `handle(self, connection)` in a thread of its own."""

    def __init__(self, handle, host="127.0.0.1", tls=None):
        self.handle, self.tls = handle, tls
        self.connections = 0
        self.requests = []
        self.closing = threading.Event()
        self.changed = threading.Condition()
        self.listener = socket.create_server((host, 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}/hook?key=hidden-key"
        self.open, self.threads = set(), []
        self.acceptor = threading.Thread(target=self.accept)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.changed:
                self.connections += 1
                self.open.add(connection)
                self.changed.notify_all()
            thread = threading.Thread(target=self.serve, args=(connection,))
            self.threads.append(thread)
            thread.start()

    def serve(self, connection):
        raw = connection
        try:
            if self.tls:
                connection = self.tls.wrap_socket(raw, server_side=True)
                with self.changed:
                    self.open.add(connection)
            self.handle(self, connection)
        except OSError:
            pass  # the client has cut the connection: the point of most tests
        finally:
            with self.changed:
                self.open -= {raw, connection}
                self.changed.notify_all()
            connection.close()
            raw.close()

    def read_request(self, connection):
        """Head and body of the next request, or None at the end."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := connection.recv(65536)):
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        while len(body) < length:
            body += connection.recv(65536)
        with self.changed:
            self.requests.append((head, body))
        return head, body

    def wait_for(self, condition):
        with self.changed:
            assert self.changed.wait_for(condition, PATIENCE)

    def close(self):
        self.closing.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.acceptor.join(PATIENCE)
        with self.changed:
            for connection in self.open:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()


@pytest.fixture
def receiver():
    made = []

    def make(handle, **options):
        made.append(Receiver(handle, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client():
    with_policy = HttpClient(LOOPBACK, pool_size=8)
    yield with_policy
    with_policy.close()


def answering(answer):
    """Answers each request of a connection with these bytes."""

    def handle(self, connection):
        while self.read_request(connection):
            connection.sendall(answer)

    return handle


def answering_once(answer):
    """Answers the first request with these bytes and closes."""

    def handle(self, connection):
        self.read_request(connection)
        connection.sendall(answer)

    return handle


def streaming(start, piece, pause=0.0):
    """Answers with `start`, then `piece` again and again until the client goes away."""

    def handle(self, connection):
        self.read_request(connection)
        connection.sendall(start)
        while not self.closing.wait(pause):
            connection.sendall(piece)

    return handle


def silent(self, connection):
    self.closing.wait()


def refused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def failure(client, url, seconds=5.0):
    """The error of a call, proved to have come in good time and to carry no secret."""
    started = time.monotonic()
    with pytest.raises((CallFailed, CallBlocked)) as caught:
        client.post(url, BODY, HEADERS, seconds)
    assert time.monotonic() - started < seconds + PATIENCE / 2
    for secret in ("hidden-key", "secret-token"):
        assert secret not in repr(caught.value) + str(caught.value)
        assert secret not in caught.getrepr(style="value", chain=True).reprcrash.message
    assert caught.value.__suppress_context__
    return caught.value


def resolving(monkeypatch, *answers):
    """Make every name resolve to each of `answers` in turn, the last for ever; returns the list of names asked for."""
    asked = []

    def getaddrinfo(host, port, *args, **kwargs):
        addresses = answers[min(len(asked), len(answers) - 1)]
        asked.append(host)
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            (families[":" in each], socket.SOCK_STREAM, 6, "", (each, port, 0, 0) if ":" in each else (each, port))
            for each in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


# What is sent, and what comes back


def test_request_arrives_as_it_was_given(receiver, client):
    server = receiver(answering(OK))

    answer = client.post(server.url, BODY, HEADERS | {"webhook-id": "req-1"}, 5)

    head, body = server.requests[0]
    lines = head.decode().split("\r\n")
    assert (answer.status, answer.body, answer.retry_after_seconds) == (200, b"ok", None)
    assert body == BODY
    assert lines[0] == "POST /hook?key=hidden-key HTTP/1.1"
    assert {f"Host: 127.0.0.1:{server.port}", "Accept-Encoding: identity", "webhook-id: req-1"} <= set(lines)
    assert not any(line.startswith("Cookie") for line in lines)


def test_connection_is_kept_alive(receiver, client):
    server = receiver(answering(OK))

    for _ in range(5):
        assert client.post(server.url, BODY, HEADERS, 5).status == 200

    assert (server.connections, len(server.requests)) == (1, 5)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["chunked", "no content", "error", "continue"],
)
def test_connection_is_kept_alive_after_any_complete_answer(receiver, client, answer):
    server = receiver(answering(answer))

    statuses = {client.post(server.url, BODY, HEADERS, 5).status for _ in range(3)}

    assert statuses <= {200, 204, 503}
    assert server.connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["said", "no length", "HTTP/1.0"],
)
def test_connection_that_the_receiver_closes_is_not_kept(receiver, client, answer):
    server = receiver(answering_once(answer))

    bodies = [client.post(server.url, BODY, HEADERS, 5).body for _ in range(2)]

    assert bodies == [b"ok", b"ok"]
    assert server.connections == 2


def test_cookies_are_not_kept(receiver, client):
    server = receiver(answering(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"))

    for _ in range(2):
        client.post(server.url, BODY, HEADERS, 5)

    assert not any(b"Cookie" in head for head, _ in server.requests)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_an_answer_and_not_followed(receiver, client, status):
    canary = receiver(answering(OK))
    location = f"HTTP/1.1 {status} Elsewhere\r\nLocation: {canary.url}\r\nContent-Length: 0\r\n\r\n"
    server = receiver(answering(location.encode()))

    assert client.post(server.url, BODY, HEADERS, 5).status == status
    assert canary.connections == 0


def test_redirect_to_nonsense_is_still_an_answer(receiver, client):
    server = receiver(answering(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n"))

    assert client.post(server.url, BODY, HEADERS, 5).status == 302


def test_proxies_in_the_environment_are_ignored(receiver, client, monkeypatch):
    canary, server = receiver(answering(OK)), receiver(answering(OK))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")

    assert client.post(server.url, BODY, HEADERS, 5).status == 200
    assert (canary.connections, server.connections) == (0, 1)


def test_compressed_answer_is_not_unpacked(receiver, client):
    server = receiver(
        answering(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00")
    )

    assert client.post(server.url, BODY, HEADERS, 5).body == b"\x1f\x8b\x08\x00"


def test_answer_counts_even_if_the_request_was_not_read_to_its_end(receiver, client):
    def handle(self, connection):
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    server = receiver(handle)

    assert client.post(server.url, b"x" * 10_000_000, HEADERS, 5).status == 413


NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        ("Thursday, 01-Jan-26 12:00:30 GMT", 30),
        ("Thu Jan  1 12:00:30 2026", 30),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 400, None),
        ("٣", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(value, seconds):
    assert retry_after_seconds(value, now=NOW.timestamp()) == seconds


@given(st.one_of(st.text(), st.from_regex(r"\A[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [+-]?\w+\Z")))
def test_any_retry_after_is_seconds_or_nothing(value):
    seconds = retry_after_seconds(value, now=NOW.timestamp())

    assert seconds is None or seconds >= 0


def test_retry_after_comes_with_the_answer(receiver, client):
    server = receiver(answering(b"HTTP/1.1 429 Slow\r\nRetry-After: 17\r\nContent-Length: 0\r\n\r\n"))

    assert client.post(server.url, BODY, HEADERS, 5).retry_after_seconds == 17


# Stale connections


def test_connection_closed_while_idle_is_replaced(receiver, client):
    server = receiver(answering_once(OK))

    for _ in range(3):
        assert client.post(server.url, BODY, HEADERS, 5).status == 200
        server.wait_for(lambda: not server.open)

    assert (server.connections, len(server.requests)) == (3, 3)


def test_request_is_not_sent_again_if_the_kept_connection_ends_without_an_answer(receiver, client):
    def handle(self, connection):
        self.read_request(connection)
        connection.sendall(OK)
        self.read_request(connection)  # the race: this one had been sent when we closed

    server = receiver(handle)
    client.post(server.url, BODY, HEADERS, 5)

    assert failure(client, server.url).reason == "connection_reset"
    assert (server.connections, len(server.requests)) == (1, 2)


def test_request_is_not_sent_again_once_a_byte_of_the_answer_came(receiver, client):
    def handle(self, connection):
        self.read_request(connection)
        connection.sendall(OK)
        self.read_request(connection)
        connection.sendall(b"H")

    server = receiver(handle)
    client.post(server.url, BODY, HEADERS, 5)

    assert failure(client, server.url).reason in {"connection_reset", "protocol"}
    assert (server.connections, len(server.requests)) == (1, 2)


def test_request_is_not_sent_again_on_a_fresh_connection(receiver, client):
    server = receiver(lambda self, connection: self.read_request(connection))

    assert failure(client, server.url).reason == "connection_reset"
    assert (server.connections, len(server.requests)) == (1, 1)


def test_request_is_not_sent_again_when_the_deadline_ended_the_kept_connection(receiver, client):
    def handle(self, connection):
        self.read_request(connection)
        connection.sendall(OK)
        self.read_request(connection)
        self.closing.wait()

    server = receiver(handle)
    client.post(server.url, BODY, HEADERS, 5)

    assert failure(client, server.url, seconds=0.2).reason == "timeout"
    assert (server.connections, len(server.requests)) == (1, 2)


def test_answer_nobody_asked_for_is_not_taken_for_the_next(receiver, client):
    sent = threading.Event()

    def handle(self, connection):
        while self.read_request(connection):
            connection.sendall(OK)
            connection.sendall(b"HTTP/1.1 500 Unasked\r\nContent-Length: 0\r\n\r\n")
            sent.set()

    server = receiver(handle)
    client.post(server.url, BODY, HEADERS, 5)
    assert sent.wait(PATIENCE)

    assert client.post(server.url, BODY, HEADERS, 5).status == 200


def test_early_hint_is_not_taken_for_the_answer(receiver, client):
    server = receiver(answering(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK))

    assert failure(client, server.url).reason == "protocol"


# Deadline


@pytest.mark.parametrize(
    ("start", "piece", "pause"),
    [
        (b"", b"H", 0.05),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.05),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n", b"x", 0.05),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.05),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n", 0.05),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 1000, 0.0),
    ],
    ids=["status", "header", "body", "unbounded body", "chunks", "trailers", "fast trailers"],
)
def test_slow_receiver_is_cut_at_the_deadline(receiver, client, start, piece, pause):
    server = receiver(streaming(start, piece, pause))

    assert failure(client, server.url, seconds=0.5).reason == "timeout"
    server.wait_for(lambda: not server.open)  # it has noticed that we hung up


def test_silent_receiver_is_cut_at_the_deadline(receiver, client):
    assert failure(client, receiver(silent).url, seconds=0.3).reason == "timeout"


def test_hanging_tls_is_cut_at_the_deadline(receiver, client):
    server = receiver(silent)

    assert failure(client, server.url.replace("http:", "https:"), seconds=0.3).reason == "timeout"


def test_receiver_that_does_not_read_is_cut_at_the_deadline(receiver, client):
    server = receiver(silent)
    started = time.monotonic()

    with pytest.raises(CallFailed, match="timeout"):
        client.post(server.url, b"x" * 50_000_000, HEADERS, 0.3)

    assert time.monotonic() - started < PATIENCE


def test_receiver_that_does_not_accept_is_cut_at_the_deadline(client):
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):  # the kernel accepts one more than asked, then drops
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())

        assert failure(client, f"http://127.0.0.1:{listener.getsockname()[1]}/", seconds=0.3).reason == "timeout"


def test_hanging_dns_is_cut_at_the_deadline_and_holds_one_thread_a_host(client, monkeypatch, receiver):
    server = receiver(answering(OK))
    answered, asked = threading.Event(), []

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        if host == "hangs.example":
            answered.wait(PATIENCE)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with ThreadPoolExecutor(24) as threads:
        hanging = [threads.submit(failure, client, "http://hangs.example/", 0.5) for _ in range(23)]
        other = threads.submit(client.post, f"http://works.example:{server.port}/", BODY, HEADERS, 5)

        assert {each.result().reason for each in hanging} == {"timeout"}
        assert other.result().status == 200
    assert asked.count("hangs.example") < 4
    answered.set()
    wait_until(lambda: not any(each.name == "name-lookup" for each in threading.enumerate()))


def test_kept_connection_outlives_the_deadline_of_the_call_before(receiver, client):
    server = receiver(answering(OK))
    other = receiver(silent)

    client.post(server.url, BODY, HEADERS, 0.2)
    failure(client, other.url, seconds=0.4)  # the first deadline has passed by now

    assert client.post(server.url, BODY, HEADERS, 5).status == 200
    assert server.connections == 1


def wait_until(condition):
    ends = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < ends
        threading.Event().wait(0.01)


# Size


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", b"x" * 65536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", b"x" * 65536),
    ],
    ids=["unbounded", "long", "chunked", "chunk of size -1"],
)
def test_endless_body_is_cut_at_64_kib(receiver, client, start, piece):
    server = receiver(streaming(start, piece))

    answer = client.post(server.url, BODY, HEADERS, 10)

    assert (answer.status, answer.body) == (200, b"x" * 65536)
    server.wait_for(lambda: not server.open)


def test_body_of_exactly_64_kib_is_whole_and_its_connection_kept(receiver, client):
    server = receiver(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + b"x" * 65536))

    assert {len(client.post(server.url, BODY, HEADERS, 5).body) for _ in range(2)} == {65536}
    assert server.connections == 1


@pytest.mark.parametrize(
    "piece",
    [b"X: " + b"x" * 60_000 + b"\r\n", b"x" * 65536, b"A: b\r\n" * 1000, b"\r\n\r\nHTTP/1.1 100 Continue\r\n" * 100],
    ids=["many headers", "one header", "short headers", "continue for ever"],
)
def test_endless_headers_are_cut_early(receiver, client, piece):
    sent = []

    def handle(self, connection):
        self.read_request(connection)
        connection.sendall(b"HTTP/1.1 100 Continue\r\n" if b"Continue" in piece else b"HTTP/1.1 200 OK\r\n")
        while sum(sent) < 100_000_000:
            sent.append(connection.send(piece))

    server = receiver(handle)

    assert failure(client, server.url).reason == "protocol"
    server.wait_for(lambda: not server.open)
    assert sum(sent) < 20_000_000  # what the kernel's buffers took


# Failures


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection_reset"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "connection_reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nha", "connection_reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nha", "connection_reset"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "protocol"),
        (b"secret-token hidden-key\r\n\r\n", "protocol"),
        (b"HTTP/1.1 abc\r\n\r\n", "protocol"),
        (b"HTTP/2 200 OK\r\n\r\n", "protocol"),
        (b"\x16\x03\x01\x02\x00", "protocol"),
    ],
)
def test_broken_answer_is_a_temporary_failure(receiver, client, answer, reason):
    server = receiver(answering_once(answer))

    error = failure(client, server.url)

    assert (error.reason, isinstance(error, TemporaryFailure)) == (reason, True)


def test_refused_connection(client):
    assert failure(client, f"http://127.0.0.1:{refused_port()}/?key=hidden-key").reason == "connection_refused"


def test_reset_connection(receiver, client):
    def handle(self, connection):
        self.read_request(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert failure(client, receiver(handle).url).reason == "connection_reset"


def test_name_that_does_not_resolve(client, monkeypatch):
    def getaddrinfo(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    assert failure(client, "http://missing.example/?key=hidden-key").reason == "dns"


def test_name_without_addresses(client, monkeypatch):
    resolving(monkeypatch, [])

    assert failure(client, "http://empty.example/").reason == "dns"


def test_no_thread_for_a_lookup_is_a_temporary_failure(client, monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    failure(client, f"http://127.0.0.1:{refused_port()}/")  # the watchdog is running
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        error = failure(client, "http://busy.example/?key=hidden-key")

    assert error.reason == "dns"


# Addresses


@pytest.mark.parametrize(
    "url", ["http://10.0.0.1/?key=hidden-key", "ftp://example.com/", "http://a@b/", "http://127.1/"]
)
def test_forbidden_url_is_blocked_for_good(client, url):
    error = failure(client, url)

    assert (error.reason, isinstance(error, PermanentFailure)) == ("blocked", True)


@pytest.mark.parametrize("host", ["private.example", "localhost"])
def test_name_resolving_to_a_private_address_is_never_connected(receiver, monkeypatch, host):
    canary = receiver(answering(OK))
    resolving(monkeypatch, ["127.0.0.1"])
    client = HttpClient(AddressPolicy(), pool_size=1)

    error = failure(client, f"http://{host}:{canary.port}/?key=hidden-key")
    client.close()

    assert (error.reason, error.rule) == ("blocked", "loopback")
    assert canary.connections == 0


def test_one_private_address_among_others_blocks_them_all(receiver, client, monkeypatch):
    canary = receiver(answering(OK))
    resolving(monkeypatch, ["127.0.0.1", "10.0.0.1"])

    assert failure(client, f"http://mixed.example:{canary.port}/").rule == "private"
    assert canary.connections == 0


def test_address_checked_is_the_address_connected(receiver, client, monkeypatch):
    server = receiver(answering(OK))
    canary = receiver(answering(OK), host="127.0.0.2")
    asked = resolving(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])

    assert client.post(f"http://rebinding.example:{server.port}/", BODY, HEADERS, 5).status == 200
    assert (asked, server.connections, canary.connections) == (["rebinding.example"], 1, 0)
    assert f"Host: rebinding.example:{server.port}".encode() in server.requests[0][0]


def test_name_rebound_to_a_private_address_is_blocked_on_the_next_connection(receiver, client, monkeypatch):
    server = receiver(answering_once(OK))
    asked = resolving(monkeypatch, ["127.0.0.1"], ["169.254.169.254"])
    url = f"http://rebinding.example:{server.port}/"
    client.post(url, BODY, HEADERS, 5)
    server.wait_for(lambda: not server.open)

    assert failure(client, url).rule == "metadata"
    assert (len(asked), server.connections) == (2, 1)


def test_next_address_is_tried_when_one_refuses(receiver, client, monkeypatch):
    server = receiver(answering(OK))
    resolving(monkeypatch, ["127.0.0.3", "127.0.0.1"])

    assert client.post(f"http://two.example:{server.port}/", BODY, HEADERS, 5).status == 200


def test_ipv6_literal_is_called(receiver):
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    port = listener.getsockname()[1]
    listener.close()
    client = HttpClient(AddressPolicy((ip_network("::1/128"),)), pool_size=1)

    assert failure(client, f"http://[::1]:{port}/").reason == "connection_refused"
    client.close()


def test_configured_address_is_not_checked(receiver):
    server = receiver(answering(OK))
    client = HttpClient(None, pool_size=1)

    assert client.post(server.url, BODY, HEADERS, 5).status == 200
    client.close()


# TLS


@pytest.fixture
def authority(tmp_path):
    """A certificate authority: returns (context that trusts it, function making a server context for a name)."""
    now = datetime.now(UTC)

    def certificate(name, issuer, key, signer, *extensions):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def named(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate(named("CA"), named("CA"), ca_key, ca_key, (x509.BasicConstraints(True, 0), True))
    trusting = ssl.create_default_context(cadata=ca.decode())

    def serving(host):
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName(host)])
        leaf = certificate(named(host), named("CA"), key, ca_key, (names, False))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = tmp_path / f"{host}.pem"
        file.write_bytes(leaf + private)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    return trusting, serving


def test_tls_keeps_the_host_name_and_the_connection(receiver, authority, monkeypatch):
    trusting, serving = authority
    context, asked_for = serving("receiver.example"), []
    context.sni_callback = lambda _, name, __: asked_for.append(name)
    server = receiver(answering(OK), tls=context)
    resolving(monkeypatch, ["127.0.0.1"])
    client = HttpClient(LOOPBACK, pool_size=2, tls=trusting)

    statuses = [client.post(f"https://receiver.example:{server.port}/", BODY, HEADERS, 5).status for _ in range(3)]
    client.close()

    assert statuses == [200, 200, 200]
    assert (asked_for, server.connections) == (["receiver.example"], 1)


def test_certificate_for_another_name_is_refused(receiver, authority, monkeypatch):
    trusting, serving = authority
    server = receiver(answering(OK), tls=serving("other.example"))
    resolving(monkeypatch, ["127.0.0.1"])
    client = HttpClient(LOOPBACK, pool_size=2, tls=trusting)

    error = failure(client, f"https://receiver.example:{server.port}/?key=hidden-key")
    client.close()

    assert error.reason == "tls"
    assert "mismatch" in str(error)
    assert server.requests == []


def test_certificate_of_an_unknown_authority_is_refused(receiver, authority, client, monkeypatch):
    _, serving = authority
    server = receiver(answering(OK), tls=serving("receiver.example"))
    resolving(monkeypatch, ["127.0.0.1"])

    assert failure(client, f"https://receiver.example:{server.port}/").reason == "tls"
    assert server.requests == []


def test_slow_answer_over_tls_is_cut_at_the_deadline(receiver, authority, monkeypatch):
    trusting, serving = authority
    server = receiver(streaming(b"HTTP/1.1 200 OK\r\n\r\n", b"x", 0.05), tls=serving("receiver.example"))
    resolving(monkeypatch, ["127.0.0.1"])
    client = HttpClient(LOOPBACK, pool_size=2, tls=trusting)

    error = failure(client, f"https://receiver.example:{server.port}/", seconds=0.5)
    client.close()

    assert error.reason == "timeout"


def test_plain_server_is_no_tls_server(receiver, client):
    server = receiver(answering_once(b"HTTP/1.1 400 Bad\r\n\r\n" + b"x" * 100))

    def handle(self, connection):
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server.handle = handle

    assert failure(client, server.url.replace("http:", "https:")).reason == "tls"


# Threads, forks and leaks


def test_64_threads_each_get_their_own_answer(receiver):
    def echo(self, connection):
        while request := self.read_request(connection):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(request[1]), request[1]))

    server = receiver(echo)
    client = HttpClient(LOOPBACK, pool_size=64)
    with ThreadPoolExecutor(64) as threads:
        bodies = [b"%d" % number for number in range(1000)]
        answers = list(threads.map(lambda body: client.post(server.url, body, HEADERS, 10).body, bodies))
    client.close()

    assert answers == bodies
    assert server.connections <= 64


def test_connections_kept_are_bounded_over_all_hosts(receiver):
    servers = [receiver(answering(OK)) for _ in range(5)]
    client = HttpClient(LOOPBACK, pool_size=2)

    for server in servers:
        client.post(server.url, BODY, HEADERS, 5)

    for server in servers[:3]:
        server.wait_for(lambda server=server: not server.open)
    assert all(server.open for server in servers[3:])
    client.close()
    for server in servers[3:]:
        server.wait_for(lambda server=server: not server.open)


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_is_left_after_many_failures(receiver, client):
    server = receiver(silent)
    failure(client, server.url, seconds=0.05)  # starts the watchdog
    server.wait_for(lambda: server.connections == 1)
    gc.collect()  # else what earlier tests left to it is closed in between, and counted
    before = open_descriptors() - server.connections

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: failure(client, server.url, seconds=0.2), range(64)))
        list(threads.map(lambda _: failure(client, f"http://127.0.0.1:{refused_port()}/"), range(64)))

    server.wait_for(lambda: server.connections == 65)
    assert open_descriptors() - server.connections == before
    assert [each.name for each in threading.enumerate()].count("http-deadlines") == 1


def test_lookups_at_the_same_time_are_bounded(client, monkeypatch):
    answered, asked = threading.Event(), []

    def getaddrinfo(host, port, *args, **kwargs):
        asked.append(host)
        answered.wait(PATIENCE)
        raise UnicodeError("label too long")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with ThreadPoolExecutor(24) as threads:
        errors = list(threads.map(lambda number: failure(client, f"http://host{number}.example/", 0.5), range(24)))
    assert {each.reason for each in errors} == {"timeout"}
    assert len(asked) == THREADS_AT_MOST

    answered.set()
    wait_until(lambda: not any(each.name == "name-lookup" for each in threading.enumerate()))
    assert failure(client, "http://odd.example/").reason == "dns"


def test_connection_in_use_when_the_client_closes_is_closed_after_its_call(receiver):
    client, arrived, go_on = HttpClient(LOOPBACK, pool_size=2), threading.Event(), threading.Event()

    def handle(self, connection):
        while self.read_request(connection):
            arrived.set()
            go_on.wait(PATIENCE)
            connection.sendall(OK)

    server = receiver(handle)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.post, server.url, BODY, HEADERS, 10)
        assert arrived.wait(PATIENCE)
        client.close()
        go_on.set()

        assert call.result().status == 200
    server.wait_for(lambda: not server.open)


def test_forked_child_makes_its_own_connections_and_deadlines(receiver, client):
    server, slow = receiver(answering(OK)), receiver(silent)
    client.post(server.url, BODY, HEADERS, 5)

    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            answered = client.post(server.url, BODY, HEADERS, 5).status == 200
            cut = failure(client, slow.url, seconds=0.2).reason == "timeout"
            code = 0 if answered and cut else 2
        os._exit(code)
    _, status = os.waitpid(child, 0)
    client.post(server.url, BODY, HEADERS, 5)

    assert os.waitstatus_to_exitcode(status) == 0
    assert server.connections == 2
