"""What carries a request for `requests`: checked addresses, kept-alive connections, one deadline, bounded answers."""

import http.client
import io
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any

import certifi
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from chargeapp.outbound.call_failures import CallBlocked, explain
from chargeapp.outbound.deadline import Deadline
from chargeapp.outbound.idle_connections import IdleConnections
from chargeapp.outbound.pinned_connections import Connector, PinnedConnection
from chargeapp.security.address_policy import AddressPolicy
from chargeapp.security.callback_url import CallbackTarget, CallbackUrlRefused


class PinnedRequest(PreparedRequest):
    """Carries the target as it was checked: two readings of one URL that differ are how address checks are evaded."""

    def __init__(self, url: str, target: CallbackTarget, body: bytes, headers: Mapping[str, str]) -> None:
        super().__init__()
        self.method = "POST"
        self.url = url
        self.target = target
        self.content = body
        self.headers = CaseInsensitiveDict(headers)


class PinnedTransport(BaseAdapter):
    """Sends a PinnedRequest once, over a kept-alive connection where there is one that has not been closed."""

    def __init__(self, policy: AddressPolicy | None, idle_at_most: int, tls: ssl.SSLContext) -> None:
        super().__init__()
        self._policy = policy
        self._tls = tls
        self._idle_at_most = idle_at_most
        self._connector = Connector(policy, tls)
        self._idle = IdleConnections(idle_at_most)

    def send(self, request: PreparedRequest, stream: bool = False, timeout: Any = None, **ignored: Any) -> Response:  # type: ignore[override]
        """Raises CallFailed or CallBlocked; `timeout` is in seconds, for all of it together."""
        assert isinstance(request, PinnedRequest)
        deadline = Deadline(timeout)
        try:
            with deadline:
                return self._send(request, deadline)
        except CallbackUrlRefused as refused:
            raise CallBlocked(refused.rule, request.target.host_header) from None
        except (OSError, http.client.HTTPException) as error:
            # `from None`: a log with the traceback would show what the error quotes.
            raise explain(error, request.target.host_header, timed_out=deadline.passed) from None

    def close(self) -> None:
        self._idle.close()

    def start_afresh(self) -> None:
        """In a forked child: the parent's connections, locks and lookups are not ours."""
        self._idle.close_inherited()
        self._idle = IdleConnections(self._idle_at_most)
        self._connector = Connector(self._policy, self._tls)

    def _send(self, request: PinnedRequest, deadline: Deadline) -> Response:
        target = request.target
        # Never a second time by itself: whoever counts attempts decides about another one.
        connection = self._idle.take((target.scheme, target.host, target.port))
        return self._exchange(connection or self._connector.connect(target, deadline), request, deadline)

    def _exchange(self, connection: PinnedConnection, request: PinnedRequest, deadline: Deadline) -> Response:
        ended = connection.abort
        try:
            deadline.guard(connection.handle)
            with connection.post(request.target, request.content, request.headers, deadline) as answer:
                body, complete = answer.read_capped(), answer.complete
            deadline.remaining()  # a body without a length that the deadline ended looks complete
            if complete:
                ended = connection.discard if answer.will_close else partial(self._idle.keep, connection)
            return _as_response(request, answer, body)
        finally:
            deadline.release()
            ended()


def trusted_authorities() -> ssl.SSLContext:
    """The machine's certificate authorities, where an operator adds their own, and those requests ships."""
    tls = ssl.create_default_context()
    tls.load_verify_locations(certifi.where())
    tls.set_alpn_protocols(["http/1.1"])
    return tls


def _as_response(request: PinnedRequest, answer: http.client.HTTPResponse, body: bytes) -> Response:
    response = Response()
    response.request = request
    response.url = request.url or ""
    response.status_code = answer.status
    response.headers = CaseInsensitiveDict(answer.getheaders())
    response.raw = io.BytesIO(body)
    return response
