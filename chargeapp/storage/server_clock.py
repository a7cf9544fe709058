"""PostgreSQL's clock is everybody's: hosts whose own clocks differ agree on what is due."""

import contextlib
import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from chargeapp import clock

# A connection that is taken from the pool asks for the time if nobody did for so long.
ASK_SECONDS = 10.0
# Whoever needs the time before anybody had an answer asks for it, no more often than this.
FIRST_ASK_SECONDS = 5.0
# An answer that took longer says too little.
TOLERATED_SECONDS = 1.0
ASK = "SELECT clock_timestamp()"


class ServerClock:
    """Asked once in a while. In between it goes on with this machine's uptime, which nobody can set."""

    def __init__(self, ask_by_itself: Callable[[], None]) -> None:
        """`ask_by_itself` takes a connection from the pool, which asks; may raise SQLAlchemyError."""
        self._ask_by_itself = ask_by_itself
        self._offset: float | None = None
        self._answered_at = -math.inf
        self._first_ask = threading.Lock()
        self._tried_at = -math.inf

    def now(self) -> datetime:
        if self._offset is None:
            # Others wait for the same answer.
            with self._first_ask:
                self._ask_for_the_first_time()
        if self._offset is None:
            return clock.wall_clock()
        return datetime.fromtimestamp(self._offset + clock.seconds_up(), UTC)

    def _ask_for_the_first_time(self) -> None:
        if self._offset is not None or time.monotonic() - self._tried_at < FIRST_ASK_SECONDS:
            return
        with contextlib.suppress(SQLAlchemyError):
            self._ask_by_itself()
        self._tried_at = time.monotonic()

    def ask(self, connection: psycopg.Connection[Any]) -> None:
        if time.monotonic() - self._answered_at < ASK_SECONDS:
            return
        before = clock.seconds_up()
        # Outside of any transaction, so that it takes one trip.
        connection.autocommit = True
        answer = connection.execute(ASK).fetchone()
        connection.autocommit = False
        assert answer is not None
        self._answered_at = time.monotonic()
        took = clock.seconds_up() - before
        if took < TOLERATED_SECONDS or self._offset is None:
            self._offset = answer[0].timestamp() - before - took / 2
