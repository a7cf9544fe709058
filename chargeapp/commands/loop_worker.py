"""gunicorn's worker whose one thread serves all connections."""

import contextlib
import json
import os
import time
from functools import partial
from socket import SHUT_RD, SOCK_STREAM
from socket import socket as Socket  # noqa: N812
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.base_async import AsyncWorker
from gunicorn.workers.ggevent import GeventWorker

from chargeapp.clock import epoch_millis, utcnow
from chargeapp.logs import get_logger
from chargeapp.web.error_responses import WORDS
from chargeapp.web.loop import BodyTooSlowError

log = get_logger()

# gunicorn ends a process that was not heard of for 30 seconds.
HEARTBEAT_SECONDS = 1.0
PAUSE_SECONDS = 0.001
# Of one that has to end: callers who keep connections may just be sending something.
LINGER_SECONDS = 2.0
# For how long a caller may take nothing of its answer.
SILENCE_SECONDS = 60.0
# How much of a body that was refused is read, so that its caller gets to read why, and for how long.
REST_BYTES = 3 * 1024 * 1024
REST_SECONDS = 5.0
PIECE_BYTES = 64 * 1024
TOO_SLOW = ("request_timeout", "The body did not arrive in time.")
NOT_HTTP = ("bad_request", "This is no HTTP request that can be read.")
# What is wrong with a request before there is one; everything else of the kind is 400.
CODES: dict[type[Exception], tuple[int, str]] = {
    errors.LimitRequestLine: (414, "URI Too Long"),
    errors.LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    errors.ExpectationFailed: (417, "Expectation Failed"),
    errors.UnsupportedTransferCoding: (501, "Not Implemented"),
    BodyTooSlowError: (408, "Request Timeout"),
}


class SharingServer(StreamServer):  # type: ignore[misc]
    """Who has connections and accepts one more leaves the next to other processes, which are as quick, for a moment."""

    max_accept = 1
    shares = True
    leaving = False

    def do_handle(self, *connection: Any) -> None:
        super().do_handle(*connection)
        if self.shares and len(self.pool) > 1:
            self.stop_accepting()
            gevent.spawn_later(PAUSE_SECONDS, self._accept_again)

    def leave(self) -> None:
        self.leaving = True
        self.stop_accepting()

    def _accept_again(self) -> None:
        if not self.leaving:
            self.start_accepting()


class LoopWorker(GeventWorker):  # type: ignore[misc]
    """Only connections give way to each other: nothing of Python's is replaced (see web/loop.py).

    gunicorn's own logs and sends back what it could not read, and that may have a driver token in it. It reads on for
    ever what is left of a body, and drops connections as soon as it is told to end.
    """

    sockets: list[Any]

    def patch(self) -> None:
        self.sockets = [socket.socket(each.FAMILY, SOCK_STREAM, fileno=each.sock.detach()) for each in self.sockets]

    def init_process(self) -> None:
        self._leaving = Event()
        self._clients: set[Any] = set()
        super().init_process()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.alive = False
        self._leaving.set()

    # Whoever was accepted is answered, however the end comes.
    handle_quit = handle_exit

    def notify(self) -> None:
        # Not GeventWorker's, which ends the process at once when its parent has gone.
        AsyncWorker.notify(self)
        if self.ppid != os.getppid():
            self.alive = False

    def run(self) -> None:
        connections = Pool(self.worker_connections)
        servers = [SharingServer(each, partial(self.handle, each), spawn=connections) for each in self.sockets]
        for server in servers:
            server.shares = self.cfg.workers > 1
            server.start()
        while self.alive:
            self.notify()
            self._leaving.wait(HEARTBEAT_SECONDS)
        for server in servers:
            server.leave()
        # gunicorn asks a listener for its name as it begins to serve a connection: first those just accepted.
        gevent.sleep(0)
        for server in servers:
            server.close()
        gevent.spawn_later(LINGER_SECONDS, self._read_no_more)
        give_up_at = time.monotonic() + self.cfg.graceful_timeout
        while connections and time.monotonic() < give_up_at:
            self.notify()
            connections.join(HEARTBEAT_SECONDS)
        if connections:
            log.warning("Callers are left without an answer", action="callers_left", connections=len(connections))

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        client.settimeout(SILENCE_SECONDS)
        self._clients.add(client)
        try:
            AsyncWorker.handle(self, listener, client, address)
        finally:
            self._clients.discard(client)

    def timeout_ctx(self) -> gevent.Timeout:
        """Around the wait for a connection's next request."""
        # One that has sent many at once takes turns with others.
        gevent.sleep(0)
        return super().timeout_ctx()

    def handle_request(self, listener: Any, request: Any, client: Any, address: Any) -> None:
        try:
            super().handle_request(listener, request, client, address)
        except TimeoutError:
            # Nobody reads the answer.
            raise StopIteration from None
        if not _is_read(request.body):
            raise StopIteration

    def _read_no_more(self) -> None:
        """What has arrived is still answered."""
        for client in self._clients:
            # Not by gevent's own, which would fail for who waits there.
            with contextlib.suppress(OSError), Socket(fileno=os.dup(client.fileno())) as same:
                same.shutdown(SHUT_RD)

    def handle_error(self, request: Any, client: Any, address: Any, error: BaseException) -> None:
        if isinstance(error, errors.ParseException | BodyTooSlowError):
            log.warning("Request not understood", action="request_refused", error=type(error).__name__)
            code, reason = CODES.get(type(error), (400, "Bad Request"))
            status, message = TOO_SLOW if isinstance(error, BodyTooSlowError) else NOT_HTTP
        else:
            log.error("Request failed", action="request_failed", error=type(error).__name__)
            code, reason = 500, "Internal Server Error"
            status, message = WORDS[500]
        with contextlib.suppress(OSError):  # the other side has gone
            util.write_nonblock(client, _answer(code, reason, status, message))


def _is_read(body: Any) -> bool:
    """Whether nothing is left of it, now."""
    with gevent.Timeout(REST_SECONDS, False):
        for _ in range(REST_BYTES // PIECE_BYTES):
            if not body.read(PIECE_BYTES):
                return True
            gevent.sleep(0)
    return False


def _answer(code: int, reason: str, status: str, message: str) -> bytes:
    body = json.dumps({"status": status, "message": message, "timestamp": epoch_millis(utcnow())}).encode()
    head = (
        f"HTTP/1.1 {code} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\n"
    )
    return head.encode() + body
