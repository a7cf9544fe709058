"""Wake-ups beside PostgreSQL: LISTEN and NOTIFY, so from any host to any other.

Who listens also holds an advisory lock, by which the others know that it does: it goes with the connection.
"""

import contextlib
import os
import select
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from sqlalchemy import Engine, TextClause, text
from sqlalchemy.exc import SQLAlchemyError

Connection = psycopg.Connection[Any]

LISTENERS = 0x63686172  # tells these locks from those of others in the same database
RELAY = "relay"
RECONNECT_SECONDS = 1.0
JOIN = ("LISTEN {channel}", "SELECT pg_advisory_lock_shared({listeners}, {number})")
LEAVE = ("UNLISTEN {channel}", "SELECT pg_advisory_unlock_shared({listeners}, {number})")

IS_ATTENDED = text("""
    SELECT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 2 AND classid = :listeners AND objid = :queue_number
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
""")
# Nothing is said, and no row returned, where nobody would hear it.
RING = text("""
    WITH listening AS (
        SELECT objid::bigint AS number FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 2 AND classid = :listeners
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ), heard AS (
        SELECT CASE
            WHEN :queue_number IN (SELECT number FROM listening) THEN :queue
            WHEN :relay_number IN (SELECT number FROM listening) THEN :relay
        END AS channel
    )
    SELECT pg_notify(channel, '') FROM heard WHERE channel IS NOT NULL
""")


class Notifications:
    """One connection for all that a process listens to, kept from one job to the next."""

    def __init__(self, engine: Engine, connect: Callable[[], Connection]) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._connect = connect
        self._connect_at = 0.0
        self._connection: Connection | None = None
        self._bells: list[NotifiedBell] = []
        self._lock = threading.RLock()

    def ring(self, queue: str) -> bool:
        names = {"queue": channel(queue), "relay": channel(RELAY)}
        return self._asks(RING, **names, queue_number=number(queue), relay_number=number(RELAY))

    def ring_early(self, queue: str) -> bool:
        """Never: nobody waits for a turn here, so jobs would look before the rows are there."""
        return False

    def attended(self, queue: str) -> bool:
        return self._asks(IS_ATTENDED, queue_number=number(queue))

    def _asks(self, question: TextClause, **names: Any) -> bool:
        try:
            with self._engine.connect() as connection:
                answer = connection.execute(question, {"listeners": LISTENERS, **names}).first()
        except SQLAlchemyError:
            # A ring may be lost, the request that rings must not be.
            return False
        return answer is not None and answer[0] is not False

    @contextlib.contextmanager
    def listen(self, name: str) -> Iterator["NotifiedBell"]:
        bell = NotifiedBell(self, name)
        with self._lock:
            if self._connection is None:
                self._call()
            if name not in self._names():
                self._say(JOIN, name)
            self._bells.append(bell)
        try:
            yield bell
        finally:
            with self._lock:
                self._bells.remove(bell)
                if name not in self._names():
                    self._say(LEAVE, name)
            bell.close()

    def socket(self) -> int | None:
        """What becomes readable when somebody rings; None while the server is away."""
        with self._lock:
            if self._connection is None and time.monotonic() >= self._connect_at:
                self._call()
            return self._connection.fileno() if self._connection else None

    def hear(self) -> None:
        """Pass on to the bells what came."""
        with self._lock:
            if self._connection is None:
                return
            try:
                heard = {each.channel for each in self._connection.notifies(timeout=0)}
            except psycopg.Error:
                self.close()
                return
            for bell in self._bells:
                if channel(bell.name) in heard:
                    bell.ring()

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _call(self) -> None:
        self._connect_at = time.monotonic() + RECONNECT_SECONDS
        try:
            self._connection = self._connect()
            self._connection.autocommit = True
        except psycopg.Error:
            self.close()
        for name in self._names():
            self._say(JOIN, name)
        for bell in self._bells:
            # Nobody knows what was missed meanwhile.
            bell.ring()

    def _say(self, words: tuple[LiteralString, ...], name: str) -> None:
        if self._connection is None:
            return
        try:
            for each in words:
                statement = sql.SQL(each).format(
                    channel=sql.Identifier(channel(name)), listeners=LISTENERS, number=number(name)
                )
                self._connection.execute(statement)
        except psycopg.Error:
            self.close()

    def _names(self) -> set[str]:
        return {bell.name for bell in self._bells}


class NotifiedBell:
    """Rung through its connection, and by threads of its own process through a pipe."""

    def __init__(self, notifications: Notifications, name: str) -> None:
        self.name = name
        self._notifications = notifications
        self._end, self._begin = os.pipe()
        os.set_blocking(self._end, False)
        os.set_blocking(self._begin, False)

    def ring(self) -> None:
        with contextlib.suppress(OSError):  # Full: rung often enough. Closed: nobody waits any more.
            os.write(self._begin, b"!")

    def wait(self, seconds: float) -> bool:
        give_up_at = time.monotonic() + seconds
        while True:
            socket = self._notifications.socket()
            watched = [self._end] if socket is None else [self._end, socket]
            readable, _, _ = select.select(watched, [], [], max(0.0, give_up_at - time.monotonic()))
            if socket in readable:
                self._notifications.hear()
            with contextlib.suppress(BlockingIOError):
                return bool(os.read(self._end, 65_536))
            if not readable:
                return False

    def close(self) -> None:
        for end in (self._end, self._begin):
            os.close(end)
        self._end = self._begin = -1


def channel(name: str) -> str:
    return f"chargeapp {name}"


def number(name: str) -> int:
    return zlib.crc32(name.encode()) & 0x7FFFFFFF
