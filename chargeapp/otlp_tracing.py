"""Traces over OTLP/HTTP, by OpenTelemetry: one for each request. A thread of its own sends them in batches.

The trace id is the 32 digits of the request id. The id of the first span, `accept`, is its last 16, so any process
can hang its spans there. They all hang there, and not on each other: where a process was killed, its span is missing,
and those after it still have their parent.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AnyValue

from chargeapp import __version__
from chargeapp.logs import get_logger
from chargeapp.tracing import NO_SPAN, Span

log = get_logger()

FIRST_SPAN = "accept"
FLUSH_SECONDS = 3.0
LAST_16_DIGITS = 2**64 - 1
Attribute = str | int | None
# Where OpenTelemetry's conventions have a name; all others are ours.
CONVENTIONS = {"http_status": "http.response.status_code"}

_propagator = TraceContextTextMapPropagator()


class RequestIds(RandomIdGenerator):
    """The first span of a request is numbered by the request id, every other at random."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def number_next(self, first: SpanContext) -> None:
        self._of_thread.first = first

    def generate_trace_id(self) -> int:
        first: SpanContext = self._of_thread.first
        return first.trace_id

    def generate_span_id(self) -> int:
        first: SpanContext | None = vars(self._of_thread).pop("first", None)
        return first.span_id if first else super().generate_span_id()


@dataclass(frozen=True)
class Teller:
    provider: TracerProvider
    tracer: trace.Tracer


class OtlpSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @cached_property
    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span, Context()))
        return carrier

    def note(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_named(attributes))

    def fail(self, why: str | None) -> None:
        self._span.set_status(Status(StatusCode.ERROR, why))


class OtlpTracing:
    """May be made before a fork: its thread starts with the first span of a process."""

    enabled = True

    def __init__(self, endpoint: str) -> None:
        self._endpoint = f"{endpoint.rstrip('/')}/v1/traces"
        self._ids = RequestIds()
        self._making = threading.Lock()
        self._made: Teller | None = None

    def accepted(self, request_id: str, began: datetime, *, replayed: bool, traceparent: str | None) -> None:
        if replayed:
            self.happened("accept again", request_id, began)
            return
        theirs = trace.get_current_span(_propagator.extract({"traceparent": traceparent or ""}, Context()))
        links = [Link(theirs.get_span_context())] if theirs.get_span_context().is_valid else []
        tracer = self._teller.tracer
        self._ids.number_next(_first_span(request_id, TraceFlags.DEFAULT))
        tracer.start_span(
            FIRST_SPAN,
            Context(),
            SpanKind.SERVER,
            _named({"request_id": request_id}),
            links,
            start_time=_nanos(began),
        ).end()

    def happened(self, name: str, request_id: str, began: datetime, **attributes: Attribute) -> None:
        parent = self._parent(request_id)
        self._teller.tracer.start_span(name, parent, attributes=_named(attributes), start_time=_nanos(began)).end()

    def step(self, name: str, request_id: str) -> AbstractContextManager[Span]:
        return _opened(self._teller.tracer.start_span(name, self._parent(request_id), SpanKind.CONSUMER))

    def call(self, host: str, port: int) -> AbstractContextManager[Span]:
        if not trace.get_current_span().get_span_context().is_valid:
            return NO_SPAN
        where: dict[str, AnyValue] = {"http.request.method": "POST", "server.address": host, "server.port": port}
        return _opened(self._teller.tracer.start_span("POST", kind=SpanKind.CLIENT, attributes=where))

    def flush(self) -> None:
        if self._made is None:
            return
        # A collector that hangs must not keep the process from ending.
        ending = threading.Thread(target=self._made.provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(FLUSH_SECONDS)

    @property
    def _teller(self) -> Teller:
        with self._making:
            if self._made is None:
                provider = self._make()
                self._made = Teller(provider, provider.get_tracer("chargeapp", __version__))
            return self._made

    def _make(self) -> TracerProvider:
        try:
            ours: dict[str, AnyValue] = {
                "service.name": "chargeapp",
                "service.version": __version__,
                "process.pid": os.getpid(),
            }
            provider = TracerProvider(
                resource=Resource(ours).merge(OTELResourceDetector().detect()),
                id_generator=self._ids,
                shutdown_on_exit=False,
            )
            provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(self._endpoint)))
        except Exception as error:
            # One of OpenTelemetry's own variables is wrong. That is no reason to refuse a request.
            log.error("No traces are sent", action="tracing_failed", error=str(error))
            return TracerProvider(sampler=ALWAYS_OFF, id_generator=self._ids, shutdown_on_exit=False)
        return provider

    def _parent(self, request_id: str) -> Context:
        """The first span, of another process; whether it is told follows from its number alone."""
        trace_id = _first_span(request_id, TraceFlags.DEFAULT).trace_id
        decision = self._teller.provider.sampler.should_sample(Context(), trace_id, FIRST_SPAN).decision
        first = _first_span(
            request_id, TraceFlags.SAMPLED if decision is Decision.RECORD_AND_SAMPLE else TraceFlags.DEFAULT
        )
        return trace.set_span_in_context(NonRecordingSpan(first), Context())


def _nanos(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1_000


def _first_span(request_id: str, flags: int) -> SpanContext:
    number = int(request_id.removeprefix("req-"), 16)
    return SpanContext(number, number & LAST_16_DIGITS, is_remote=True, trace_flags=TraceFlags(flags))


@contextmanager
def _opened(span: trace.Span) -> Iterator[Span]:
    """The span of this thread, to its end. What was raised may have anything in its text: only its kind is told."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield OtlpSpan(span)
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def _named(attributes: Mapping[str, Attribute]) -> dict[str, str | int]:
    return {CONVENTIONS.get(name, f"chargeapp.{name}"): each for name, each in attributes.items() if each is not None}
