"""Why a call over HTTP brought no answer, in words that are safe to store and to log."""

import http.client
import socket
import ssl

from chargeapp.errors import PermanentFailure, TemporaryFailure


class CallFailed(TemporaryFailure):
    """No complete answer came; `reason` is one short word for counting, the message adds what is known."""

    def __init__(self, reason: str, where: str, detail: str = "") -> None:
        super().__init__(f"{where}: {reason}{f' ({detail})' if detail else ''}")
        self.reason = reason


class CallBlocked(PermanentFailure):
    """The address policy forbids the call, and nothing was sent; `rule` names why."""

    def __init__(self, rule: str, where: str) -> None:
        super().__init__(f"{where}: blocked ({rule})")
        self.reason = "blocked"
        self.rule = rule


# The first that matches counts: most of these are OSErrors too.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (TimeoutError, "timeout"),
    (socket.gaierror, "dns"),
    (ssl.SSLError, "tls"),
    (ConnectionRefusedError, "connection_refused"),
    (ConnectionError, "connection_reset"),
    (http.client.IncompleteRead, "connection_reset"),
    (http.client.HTTPException, "protocol"),
    (OSError, "unreachable"),
)


def explain(error: OSError | http.client.HTTPException, where: str, *, timed_out: bool) -> CallFailed:
    """Name `error`; whatever went wrong after the deadline went wrong because the deadline cut it."""
    if timed_out:
        return CallFailed("timeout", where)
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    # Never str(error): http.client quotes what the other side sent, and that may be our own body come back.
    if isinstance(error, ssl.SSLCertVerificationError):
        detail = error.verify_message
    elif isinstance(error, ssl.SSLError):
        detail = error.reason
    else:
        detail = getattr(error, "strerror", None) or ""
    return CallFailed(reason, where, detail or type(error).__name__)
