"""PostgreSQL's clock is everybody's: hosts whose own clocks differ agree on what is due."""

import contextlib
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
from sqlalchemy.exc import SQLAlchemyError

from chargeapp import clock

# A connection that is taken from the pool asks for the time if nobody did for so long.
ASK_SECONDS = 10.0
# An answer that took longer says too little.
TOLERATED_SECONDS = 1.0
ASK = "SELECT clock_timestamp()"


class ServerClock:
    """Asked once in a while. In between it goes on with this machine's uptime, which nobody can set."""

    def __init__(self, ask_by_itself: Callable[[], None]) -> None:
        """`ask_by_itself` takes a connection from the pool, which asks; may raise SQLAlchemyError."""
        self._ask_by_itself = ask_by_itself
        self._offset: float | None = None
        self._asked_at = -math.inf
        self._tried = False

    def now(self) -> datetime:
        if self._offset is None and not self._tried:
            self._tried = True
            with contextlib.suppress(SQLAlchemyError):
                self._ask_by_itself()
        if self._offset is None:
            return clock.wall_clock()
        return datetime.fromtimestamp(self._offset + clock.seconds_up(), UTC)

    def ask(self, connection: psycopg.Connection[Any]) -> None:
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return
        self._asked_at = time.monotonic()
        before = clock.seconds_up()
        # Outside of any transaction, so that it takes one trip.
        connection.autocommit = True
        answer = connection.execute(ASK).fetchone()
        connection.autocommit = False
        assert answer is not None
        took = clock.seconds_up() - before
        if took < TOLERATED_SECONDS or self._offset is None:
            self._offset = answer[0].timestamp() - before - took / 2
