"""Kept-alive connections between two calls: a bounded number over all hosts, the longest idle dropped first."""

import threading
import time

from chargeapp.outbound.pinned_connections import Origin, PinnedConnection

IDLE_SECONDS = 30


class IdleConnections:
    """Safe for threads; a connection taken belongs to the taker until it is kept again or discarded."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._lock = threading.Lock()
        self._idle: list[tuple[float, PinnedConnection]] = []  # longest idle first

    def take(self, origin: Origin) -> PinnedConnection | None:
        """The connection to `origin` used last that is still alive, if there is one."""
        while (connection := self._pop(origin)) is not None:
            if not connection.is_stale():
                return connection
            connection.discard()
        return None

    def keep(self, connection: PinnedConnection) -> None:
        now = time.monotonic()
        dropped = []
        with self._lock:
            self._idle.append((now, connection))
            while len(self._idle) > self._at_most or (self._idle and self._idle[0][0] < now - IDLE_SECONDS):
                dropped.append(self._idle.pop(0))
        for _, each in dropped:
            each.discard()

    def close(self) -> None:
        """Drop all of them; those taken are dropped when they are next kept."""
        with self._lock:
            self._at_most = 0
            dropped, self._idle = self._idle, []
        for _, each in dropped:
            each.discard()

    def close_inherited(self) -> None:
        """In a forked child: close this process's copies, which the parent goes on using."""
        self._lock = threading.Lock()  # a thread that no longer exists may hold the old one
        self.close()

    def _pop(self, origin: Origin) -> PinnedConnection | None:
        oldest = time.monotonic() - IDLE_SECONDS
        with self._lock:
            for index in range(len(self._idle) - 1, -1, -1):
                since, connection = self._idle[index]
                if connection.origin == origin and since > oldest:
                    del self._idle[index]
                    return connection
        return None
