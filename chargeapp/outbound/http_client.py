"""The one door through which chargeapp calls others over HTTP.

`requests` carries the call, over a transport of our own (`pinned_transport`). CPU in ms for one POST on a kept-alive
connection (Python 3.11, 2 cores, runs vary): this client 0.20-0.24, of which `Session.send` is 0.02; `requests` by
default 0.62-0.76, with a prepared request and its own adapter 0.27-0.41; urllib3's `PoolManager.urlopen` 0.19-0.25.
"""

import os
import re
import ssl
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from requests import Response, Session

from chargeapp.outbound.call_failures import CallBlocked, CallFailed
from chargeapp.outbound.pinned_transport import PinnedRequest, PinnedTransport, trusted_authorities
from chargeapp.security.address_policy import AddressPolicy
from chargeapp.security.callback_url import CallbackUrlRefused, parse_callback_url
from chargeapp.tracing import NO_TRACING, Tracing

__all__ = ["CallBlocked", "CallFailed", "HttpAnswer", "HttpClient"]


@dataclass(frozen=True)
class HttpAnswer:
    """What the other side said; the body ends after 64 KiB."""

    status: int
    retry_after_seconds: float | None
    body: bytes


class HttpClient:
    """Posts to callback addresses, or with `policy=None` to an address the operator configured; safe for threads.

    `pool_size` connections at most are kept alive between calls, over all hosts. `tls` replaces the certificate
    authorities trusted.
    """

    def __init__(
        self,
        policy: AddressPolicy | None,
        pool_size: int,
        tls: ssl.SSLContext | None = None,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._policy = policy
        self._tracing = tracing
        self._transport = PinnedTransport(policy, pool_size, tls or trusted_authorities())
        self._session = _BareSession()
        self._session.trust_env = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._transport)
        _clients.add(self)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout_seconds: float) -> HttpAnswer:
        """Any answer, a redirect or an error too; raises CallFailed (temporary) or CallBlocked (permanent)."""
        try:
            target = parse_callback_url(url) if self._policy is None else self._policy.parse(url)
        except CallbackUrlRefused as refused:
            raise CallBlocked(refused.rule, "callback address") from None
        with self._tracing.call(target.host, target.port) as call:
            request = PinnedRequest(url, target, body, {**headers, **call.headers})
            response = self._session.send(request, timeout=timeout_seconds, allow_redirects=False, proxies={})
            call.note(http_status=response.status_code)
        return HttpAnswer(
            status=response.status_code,
            retry_after_seconds=retry_after_seconds(response.headers.get("Retry-After"), now=time.time()),
            body=response.content,
        )

    def close(self) -> None:
        """Close the idle connections; one in use is closed when its call ends."""
        self._session.close()

    def start_afresh(self) -> None:
        self._transport.start_afresh()


class _BareSession(Session):
    def get_redirect_target(self, resp: Response) -> None:
        """Nowhere: even unfollowed, requests would parse the Location and may fail at it."""


def retry_after_seconds(value: str | None, now: float) -> float | None:
    """Seconds from `now` (epoch), never negative; None if there is no value or it makes no sense."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # RFC 9110: always GMT; "-0000" parses as naive.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - now)


def _start_afresh() -> None:
    for client in list(_clients):
        client.start_afresh()


_clients: weakref.WeakSet[HttpClient] = weakref.WeakSet()
os.register_at_fork(after_in_child=_start_afresh)
