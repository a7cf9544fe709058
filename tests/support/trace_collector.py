"""A collector that understands OTLP over HTTP, and keeps what it is sent."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from support.builders import eventually


@dataclass(frozen=True)
class TracedSpan:
    """Ids in hex, as they are written in headers."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    failed: bool
    why: str
    attributes: Mapping[str, Any]
    links: tuple[tuple[str, str], ...]
    pid: int
    service: str
    began: int
    ended: int


class TraceCollector:
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.keys: set[str | None] = set()
        self._answers = threading.Event()
        self._answers.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                collector._answers.wait()
                collector.keys.add(self.headers["Authorization"])
                collector.received.append(body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It takes what it is sent, and neither keeps nor answers it before the end."""
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self) -> list[TracedSpan]:
        """In the order of their beginning."""
        found = [each for body in list(self.received) for each in _decoded(body)]
        return sorted(found, key=lambda each: each.began)

    def wait_for(self, *names: str) -> list[TracedSpan]:
        """All there is, once there are spans of these names, so many of each."""

        def come() -> bool:
            have = [each.name for each in self.spans()]
            return all(have.count(name) >= names.count(name) for name in names)

        eventually(come, f"{names} expected", 30.0)
        return self.spans()


def _decoded(body: bytes) -> list[TracedSpan]:
    found = []
    for of_process in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _values(of_process.resource.attributes)
        for scope in of_process.scope_spans:
            found += [_span(each, about) for each in scope.spans]
    return found


def _span(span: Any, about: Mapping[str, Any]) -> TracedSpan:
    return TracedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        failed=span.status.code == 2,
        why=span.status.message,
        attributes=_values(span.attributes),
        links=tuple((each.trace_id.hex(), each.span_id.hex()) for each in span.links),
        pid=about["process.pid"],
        service=about["service.name"],
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value"))
