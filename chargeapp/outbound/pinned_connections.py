"""Connections to an address that was checked, under the host name it was checked for."""

import http.client
import select
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress

from chargeapp import failpoints
from chargeapp.outbound.deadline import Deadline
from chargeapp.outbound.metered_response import MeteredResponse
from chargeapp.outbound.name_lookups import Endpoint, NameLookups
from chargeapp.security.address_policy import AddressPolicy
from chargeapp.security.callback_url import CallbackTarget

ATTEMPTS_AT_MOST = 4  # addresses of one host tried in turn

Origin = tuple[str, str, int]


class PinnedConnection(http.client.HTTPConnection):
    """Speaks HTTP over a socket that is given to it, and never opens one by name."""

    response_class = MeteredResponse
    auto_open = 0

    def __init__(self, target: CallbackTarget, sock: socket.socket, handle: socket.socket) -> None:
        super().__init__(target.host, target.port)
        self.origin: Origin = (target.scheme, target.host, target.port)
        self.sock = sock
        self.handle = handle

    def post(
        self, target: CallbackTarget, body: bytes, headers: Mapping[str, str], deadline: Deadline
    ) -> MeteredResponse:
        """Send the request and read the head of the answer."""
        self.sock.settimeout(deadline.remaining())
        # The other side may have answered and closed without reading all of it; what it said counts.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.request("POST", target.path_and_query, body, {"Host": target.host_header, **headers})
            failpoints.reach("call.sent")
        response = self.getresponse()
        assert isinstance(response, MeteredResponse)
        return response

    def is_stale(self) -> bool:
        """Nothing should arrive on an idle connection: what does is its end, or an answer nobody asked for."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(0))

    def discard(self) -> None:
        """Close it for good; no deadline may guard it any more."""
        self.close()
        self.handle.close()

    def abort(self) -> None:
        """Discard it in the middle of an answer, with a reset: a sender that goes on must not hold kernel buffers."""
        with suppress(OSError):  # it may have been reset already
            self.handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.discard()


class Connector:
    """Resolves once, checks every address, connects to one of those, and proves the host name by TLS."""

    def __init__(self, policy: AddressPolicy | None, tls: ssl.SSLContext) -> None:
        self._policy = policy
        self._tls = tls
        self._lookups = NameLookups()

    def connect(self, target: CallbackTarget, deadline: Deadline) -> PinnedConnection:
        """A connection guarded by `deadline`; raises CallbackUrlRefused before anything is sent, or OSError."""
        endpoints = self._lookups.look_up(target, deadline)
        if self._policy is not None:
            for endpoint in endpoints:
                self._policy.check_address(endpoint.address)
        tried = endpoints[:ATTEMPTS_AT_MOST]
        for left in range(len(tried), 0, -1):
            try:
                return self._open(target, tried[-left], deadline, deadline.remaining() / left)
            except OSError:
                if left == 1 or deadline.passed:
                    raise
        raise socket.gaierror(socket.EAI_NONAME, "no address")

    def _open(self, target: CallbackTarget, endpoint: Endpoint, deadline: Deadline, seconds: float) -> PinnedConnection:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
        # A second descriptor of the same connection: the deadline can shut it down whatever TLS and http.client
        # do to the first, and its number cannot pass to a stranger's connection while we hold it.
        handle = sock.dup()
        try:
            deadline.guard(handle)
            sock.settimeout(seconds)
            sock.connect(endpoint.sockaddr)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if target.scheme == "https":
                sock = self._tls.wrap_socket(sock, server_hostname=target.host, do_handshake_on_connect=False)
                sock.settimeout(deadline.remaining())
                sock.do_handshake()
            return PinnedConnection(target, sock, handle)
        except BaseException:
            deadline.release()
            sock.close()
            handle.close()
            raise
