"""gunicorn from within, so that its settings come from ours."""

import contextlib
import json
import time
from typing import Any

from flask import Flask, Response
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from chargeapp.app import create_app
from chargeapp.clock import epoch_millis, utcnow
from chargeapp.config import Settings
from chargeapp.logs import get_logger
from chargeapp.web.error_responses import WORDS, error_response

log = get_logger()

KEEP_ALIVE_SECONDS = 30
GRACEFUL_SECONDS = 15
# Long enough for a process that sleeps to wake up, and for all on the way in this one to wait.
PAUSE_SECONDS = 0.001
NOT_HTTP = ("bad_request", "This is no HTTP request that can be read.")
# What is wrong with a request before there is one; everything else of the kind is 400.
CODES: dict[type[Exception], tuple[int, str]] = {
    errors.LimitRequestLine: (414, "URI Too Long"),
    errors.LimitRequestHeaders: (431, "Request Header Fields Too Large"),
    errors.ExpectationFailed: (417, "Expectation Failed"),
    errors.UnsupportedTransferCoding: (501, "Not Implemented"),
}


class DiscreetWorker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's own logs and sends back what it could not read, and that may have a driver token in it."""

    def accept(self, listener: Any) -> None:
        """Leaves the next connection to another process: one of them may have got all those of a busy caller."""
        before = self.nr_conns
        super().accept(listener)
        if self.cfg.workers > 1 and self.nr_conns > before > 0:
            time.sleep(PAUSE_SECONDS)

    def handle_error(self, request: Any, client: Any, address: Any, error: BaseException) -> None:
        if isinstance(error, errors.ParseException):
            log.warning("Request not understood", action="request_refused", error=type(error).__name__)
            code, reason = CODES.get(type(error), (400, "Bad Request"))
            status, message = NOT_HTTP
        else:
            log.error("Request failed", action="request_failed", error=type(error).__name__)
            code, reason = 500, "Internal Server Error"
            status, message = WORDS[500]
        with contextlib.suppress(OSError):  # the other side has gone
            util.write_nonblock(client, _answer(code, reason, status, message))


def _answer(code: int, reason: str, status: str, message: str) -> bytes:
    body = json.dumps({"status": status, "message": message, "timestamp": epoch_millis(utcnow())}).encode()
    head = (
        f"HTTP/1.1 {code} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n\r\n"
    )
    return head.encode() + body


class WebServer(BaseApplication):  # type: ignore[misc]
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.web_workers,
            "threads": self._settings.web_threads,
            "worker_class": DiscreetWorker,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": GRACEFUL_SECONDS,
            "preload_app": True,
            "limit_request_line": 4094,
            "limit_request_fields": 64,
            "proc_name": "chargeapp web",
            # Our own log lines tell what happens; these only where something is wrong.
            "loglevel": "warning",
            "control_socket_disable": True,
            "worker_exit": lambda server, worker: worker.app.wsgi().extensions["tracing"].flush(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        app = create_app(self._settings)

        @app.errorhandler(errors.ParseException)
        def body_that_ends_badly(error: Exception) -> Response:
            return error_response(400, *NOT_HTTP)

        return app


def run_web(settings: Settings) -> None:
    WebServer(settings).run()
