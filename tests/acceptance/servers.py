"""Real HTTP servers that stand for the caller and for the authorization service, with answers laid out beforehand."""

import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """`dropped`: the connection is closed instead of an answer."""

    status: int = 204
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    dropped: bool = False


@dataclass(frozen=True)
class Arrival:
    """One request as it came; `at` is monotonic. Header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RecordingServer:
    """Answers on a port of its own; children say what."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.address = address
        self.arrivals: list[Arrival] = []
        self._arrived = threading.Condition()
        self._closing = threading.Event()
        self._listen(port=0)

    def _listen(self, port: int) -> None:
        self._closing.clear()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Every connection and thread has ended when this returns."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()

    def answer_to(self, arrival: Arrival) -> Answer:
        raise NotImplementedError

    def handle(self, arrival: Arrival) -> Answer:
        with self._arrived:
            self.arrivals.append(arrival)
            answer = self.answer_to(arrival)
            self._arrived.notify_all()
        if answer.delay_seconds:
            self._closing.wait(answer.delay_seconds)
        return answer

    def _wait(self, condition: Any, what: str, deadline_seconds: float) -> None:
        with self._arrived:
            assert self._arrived.wait_for(condition, deadline_seconds), f"{what}; came: {self.arrivals}"


class Receiver(RecordingServer):
    """A caller's endpoint: answers each path with its list in turn, the last one for ever, by default with 204."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__(address)
        self._answers: dict[str, list[Answer]] = {}
        self._names = 0

    def url(self, path: str) -> str:
        return f"http://{self.address}:{self.port}{path}"

    def path(self, *answers: Answer | int) -> str:
        """A path that nobody used yet, which answers so."""
        self._names += 1
        path = f"/callback/{self._names}"
        self._answers[path] = [Answer(each) if isinstance(each, int) else each for each in answers] or [Answer()]
        return path

    def answer_to(self, arrival: Arrival) -> Answer:
        answers = self._answers.get(arrival.path, [Answer()])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def at(self, path: str) -> list[Arrival]:
        return [each for each in list(self.arrivals) if each.path == path]

    def by_request(self, path: str) -> dict[str, list[Arrival]]:
        found: dict[str, list[Arrival]] = defaultdict(list)
        for each in self.at(path):
            found[each.headers["webhook-id"]].append(each)
        return found

    def wait_for(self, path: str, count: int = 1, deadline_seconds: float = DEADLINE_SECONDS) -> list[Arrival]:
        self._wait(lambda: len(self.at(path)) >= count, f"{count} callbacks expected at {path}", deadline_seconds)
        return self.at(path)


class AuthorizationStub(RecordingServer):
    """An authorization service: who asks with a token that begins with a known prefix gets that prefix's answers."""

    def __init__(self) -> None:
        super().__init__()
        self._answers: dict[str, list[Answer]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/authorize"

    def answers(self, prefix: str, *answers: Answer | int | str) -> None:
        """A number is a status without content, a word a decision; the last answer is given for ever."""
        self._answers[prefix] = [_decision(each) if isinstance(each, str) else _plain(each) for each in answers]

    def answer_to(self, arrival: Arrival) -> Answer:
        token = arrival.json["driver_token"]
        answers = next(found for prefix, found in self._answers.items() if token.startswith(prefix))
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def asked(self, prefix: str) -> list[Arrival]:
        return [each for each in list(self.arrivals) if each.json["driver_token"].startswith(prefix)]

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Nobody listens meanwhile."""
        port = self.port
        self.close()
        try:
            yield
        finally:
            self._listen(port)


def _plain(answer: Answer | int) -> Answer:
    return Answer(answer) if isinstance(answer, int) else answer


def _decision(status: str) -> Answer:
    return Answer(200, json.dumps({"status": status}).encode(), {"Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close waits for them
    request_queue_size = 128

    def __init__(self, owner: RecordingServer, port: int) -> None:
        self.owner = owner
        self._connections: set[Any] = set()
        self._lock = threading.Lock()
        super().__init__((owner.address, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """A kept-alive connection would keep its thread for ever."""
        with self._lock:
            for connection in self._connections:
                # The other side may have gone already.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side has gone, or was killed; what came is recorded all the same."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        at = time.monotonic()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.owner.handle(Arrival(self.path, headers, body, at))
        if answer.dropped:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_GET = do_POST  # noqa: N815 - a followed redirect would come so

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""
