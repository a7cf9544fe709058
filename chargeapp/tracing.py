"""What may be told of a request to a collector of traces. By default nothing is, and that costs nothing.

Every process can name a request's trace, and the span to hang its own on, from the request id alone; so nothing is
stored for it, and no message carries it. `otlp_tracing.py` is the kind that does tell.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Protocol


class Span(Protocol):
    """Something under way. Driver tokens are never told."""

    @property
    def headers(self) -> Mapping[str, str]:
        """To go with an outgoing call, so that whoever is called can continue the trace."""

    def note(self, **attributes: str | int | None) -> None: ...

    def fail(self, why: str | None) -> None: ...


class Tracing(Protocol):
    """Never raises, never waits for a collector."""

    @property
    def enabled(self) -> bool: ...

    def accepted(self, request_id: str, began: datetime, *, replayed: bool, traceparent: str | None) -> None:
        """The first span. `traceparent` is the caller's own, to be linked."""

    def happened(self, name: str, request_id: str, began: datetime, **attributes: str | int | None) -> None:
        """A span that has just ended."""

    def step(self, name: str, request_id: str) -> AbstractContextManager[Span]:
        """What a job does for one request."""

    def call(self, host: str, port: int) -> AbstractContextManager[Span]:
        """An HTTP POST within a step; outside of any, nothing."""

    def flush(self) -> None:
        """Before a process ends: send what was not sent yet, for a few seconds at most."""


class NoSpan:
    headers: Mapping[str, str] = {}

    def note(self, **attributes: str | int | None) -> None:
        return None

    def fail(self, why: str | None) -> None:
        return None


NO_SPAN: AbstractContextManager[Span] = nullcontext(NoSpan())


class NoTracing:
    enabled = False

    def accepted(self, request_id: str, began: datetime, *, replayed: bool, traceparent: str | None) -> None:
        return None

    def happened(self, name: str, request_id: str, began: datetime, **attributes: str | int | None) -> None:
        return None

    def step(self, name: str, request_id: str) -> AbstractContextManager[Span]:
        return NO_SPAN

    def call(self, host: str, port: int) -> AbstractContextManager[Span]:
        return NO_SPAN

    def flush(self) -> None:
        return None


NO_TRACING = NoTracing()
