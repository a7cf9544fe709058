"""The demo's other side: takes callbacks on this machine and shows them on a page that refreshes itself."""

import base64
import contextlib
import hmac
import json
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

from jinja2 import Environment, FileSystemLoader

from chargeapp.errors import MisconfiguredError
from chargeapp.logs import get_logger

log = get_logger()

REMEMBERED = 200
MAX_BODY_BYTES = 64 * 1024
SIGNATURE_TOLERANCE_SECONDS = 300
WEBHOOK_HEADERS = ("id", "timestamp", "signature")
STATUSES = ("allowed", "not_allowed", "unknown", "invalid")
PAGES = Path(__file__).parent / "demo"
ASSETS = {
    "/live.js": ("live.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class ReceivedCallback:
    """What the page shows of a callback; the driver token is masked before anything is kept."""

    number: int
    arrived_at: str
    time: str
    status: str
    status_class: str
    station: str
    token: str
    reason: str
    request_id: str
    signature: str
    attempt: int
    after: str
    headers: dict[str, str]
    body: str


class CallbackLog:
    """The newest callbacks; threads share it."""

    def __init__(self, webhook_secret: str) -> None:
        self._secret = webhook_secret
        self._lock = threading.Lock()
        self._callbacks: deque[ReceivedCallback] = deque(maxlen=REMEMBERED)
        self._total = 0

    def add(self, headers: Mapping[str, str], raw_body: bytes, content: Mapping[str, Any], *, now: datetime) -> None:
        webhook_id = headers.get("webhook-id", "")
        valid = signature_is_valid(self._secret, headers, raw_body, now=now)
        masked = dict(content) | {"driver_token": mask(_text(content, "driver_token"))}
        status = _text(content, "status")
        with self._lock:
            self._total += 1
            self._callbacks.append(
                ReceivedCallback(
                    number=self._total,
                    arrived_at=now.isoformat(timespec="milliseconds"),
                    time=f"{now.astimezone():%H:%M:%S}",
                    status=status or "no status",
                    status_class=status if status in STATUSES else "other",
                    station=_text(content, "station_id"),
                    token=masked["driver_token"],
                    reason=_text(content, "reason"),
                    request_id=_text(content, "request_id"),
                    signature="valid" if valid else "invalid",
                    attempt=1 + sum(each.headers["webhook-id"] == webhook_id for each in self._callbacks),
                    after=_since_decision(content.get("timestamp"), now),
                    headers={f"webhook-{name}": headers.get(f"webhook-{name}", "") for name in WEBHOOK_HEADERS},
                    body=json.dumps(masked, indent=2, ensure_ascii=False),
                )
            )

    def snapshot(self) -> dict[str, Any]:
        """Newest first, with the number ever received."""
        with self._lock:
            return {"total": self._total, "callbacks": [asdict(each) for each in reversed(self._callbacks)]}


def signature_is_valid(secret: str, headers: Mapping[str, str], body: bytes, *, now: datetime) -> bool:
    """Check a Standard Webhooks signature, as every receiver of callbacks should."""
    identity, sent_at, signatures = (headers.get(f"webhook-{name}", "") for name in WEBHOOK_HEADERS)
    if not sent_at.isdecimal() or abs(now.timestamp() - int(sent_at)) > SIGNATURE_TOLERANCE_SECONDS:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{identity}.{sent_at}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return any(hmac.compare_digest(expected.encode(), each.encode()) for each in signatures.split())


def mask(token: str) -> str:
    """Enough to recognise a token by, too little to use it; a short one is hidden altogether."""
    return f"{token[:4]}…{token[-4:]}" if len(token) > 12 else "…" if token else ""


def run_demo_receiver(port: int, webhook_secret: str, example: str = "") -> None:
    """Listen on 127.0.0.1:`port` until SIGTERM; the page offers `example`, a command to paste, while it is empty."""
    stops = {signal.SIGTERM, signal.SIGINT}
    # Blocked before there are threads, so that the signal comes to sigwait and nowhere else.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    try:
        with DemoServer(port, CallbackLog(webhook_secret), example) as server:
            listener = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="listener")
            listener.start()
            log.info("Demo receiver listens", action="demo_receiver_started", port=server.server_port)
            signal.sigwait(stops)
            server.shutdown()
            listener.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class DemoServer(ThreadingHTTPServer):
    """Knows its connections, so that closing it does not wait for those that are kept alive."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, callbacks: CallbackLog, example: str) -> None:
        self.callbacks = callbacks
        self.example = example
        self.page = Environment(loader=FileSystemLoader(PAGES), autoescape=True).get_template("page.html")
        self.assets = {path: ((PAGES / name).read_bytes(), kind) for path, (name, kind) in ASSETS.items()}
        self._connections: set[socket.socket] = set()
        try:
            super().__init__(("127.0.0.1", port), DemoHandler)
        except OSError as error:
            raise MisconfiguredError(f"PORT: the demo receiver cannot listen on 127.0.0.1:{port}: {error}") from error

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._connections):
            # Only reading ends, so an answer under way still goes out.
            with contextlib.suppress(OSError):  # it may have ended meanwhile
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if isinstance(sys.exception(), OSError):  # the other side has gone
            return
        log.exception("Callback not handled", action="demo_receiver_failed")


class DemoHandler(BaseHTTPRequestHandler):
    """`POST /callback` takes a callback; `GET /` shows what came."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    # The answer goes out in one packet, at once.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            return self._answer(411, b"Content-Length is needed\n")
        if int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self._answer(413, b"Too large\n")
        body = self.rfile.read(int(length))
        if self.path != "/callback":
            return self._answer(404, b"POST callbacks to /callback\n")
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            return self._answer(400, b"The body must be a JSON object\n")
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._demo.callbacks.add(headers, body, content, now=datetime.now(UTC))
        return self._answer(204, b"")

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/":
            page = self._demo.page.render(self._demo.callbacks.snapshot(), example=self._demo.example)
            return self._answer(200, page.encode(), "text/html; charset=utf-8")
        if path == "/callbacks.json":
            return self._answer(200, json.dumps(self._demo.callbacks.snapshot()).encode(), "application/json")
        if path in self._demo.assets:
            return self._answer(200, *self._demo.assets[path])
        return self._answer(404, b"Nothing here; the page is at /\n")

    def version_string(self) -> str:
        return "chargeapp-demo"

    def log_message(self, format: str, *args: Any) -> None:
        """The page is the log."""

    def end_headers(self) -> None:
        for name, value in SECURITY_HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def _answer(self, status: int, content: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    @property
    def _demo(self) -> DemoServer:
        return cast(DemoServer, self.server)


def _text(content: Mapping[str, Any], name: str) -> str:
    value = content.get(name)
    return "" if value is None else str(value)[:200]


def _since_decision(decided_at_millis: object, now: datetime) -> str:
    """How long the callback took, in words; empty when the body does not tell."""
    if not isinstance(decided_at_millis, int) or isinstance(decided_at_millis, bool):
        return ""
    millis = round(now.timestamp() * 1000) - decided_at_millis
    if not 0 <= millis < 86_400_000:
        return ""
    return f"{millis} ms after the decision" if millis < 1000 else f"{millis / 1000:.1f} s after the decision"
