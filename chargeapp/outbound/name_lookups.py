"""Host names to addresses, with the timeout that `getaddrinfo` lacks."""

import socket
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from chargeapp.outbound.deadline import Deadline
from chargeapp.security.callback_url import CallbackTarget

THREADS_AT_MOST = 16


@dataclass(frozen=True)
class Endpoint:
    """One of the addresses of a host, as `socket.connect` wants it."""

    family: int
    address: str
    sockaddr: tuple[str | int | bytes, ...]


class NameLookups:
    """Runs each lookup in a thread of its own that callers need not wait for, a bounded number at a time.

    Callers of one host share its lookup, so that a name whose servers never answer holds one thread and not all.
    """

    def __init__(self) -> None:
        self._slots = threading.BoundedSemaphore(THREADS_AT_MOST)
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Future[list[Endpoint]]] = {}

    def look_up(self, target: CallbackTarget, deadline: Deadline) -> list[Endpoint]:
        """Every address of the host; raises socket.gaierror or TimeoutError."""
        if target.address is not None:
            return [_literal(target)]
        where = (target.host, target.port)
        with self._lock:
            lookup = self._running.get(where)
        return (lookup or self._start(where, deadline)).result(timeout=deadline.remaining())

    def _start(self, where: tuple[str, int], deadline: Deadline) -> Future[list[Endpoint]]:
        if not self._slots.acquire(timeout=deadline.remaining()):
            raise TimeoutError
        with self._lock:
            if (running := self._running.get(where)) is not None:
                self._slots.release()
                return running
            lookup = self._running[where] = Future()
        try:
            threading.Thread(target=self._run, args=(where, lookup), name="name-lookup", daemon=True).start()
        except RuntimeError:  # the machine has no thread left
            self._finish(where)
            lookup.set_exception(socket.gaierror(socket.EAI_AGAIN, "no thread left for a lookup"))
        return lookup

    def _run(self, where: tuple[str, int], lookup: Future[list[Endpoint]]) -> None:
        try:
            answers = socket.getaddrinfo(*where, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._finish(where)
            lookup.set_exception(
                error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, "bad name")
            )
        else:
            self._finish(where)
            lookup.set_result([Endpoint(family, str(addr[0]), addr) for family, _, _, _, addr in answers])

    def _finish(self, where: tuple[str, int]) -> None:
        with self._lock:
            del self._running[where]
        self._slots.release()


def _literal(target: CallbackTarget) -> Endpoint:
    if target.address is not None and target.address.version == 6:
        return Endpoint(socket.AF_INET6, target.host, (target.host, target.port, 0, 0))
    return Endpoint(socket.AF_INET, target.host, (target.host, target.port))
