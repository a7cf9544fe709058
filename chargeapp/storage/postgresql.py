"""PostgreSQL: writers side by side, on any number of hosts; what one has claimed, the others skip."""

import select
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session

from chargeapp import clock
from chargeapp.storage.notifications import Notifications
from chargeapp.storage.server_clock import ServerClock
from chargeapp.storage.turns import take_turn

# As many connections as a process opens at most, and only if so many of its threads need one at the same time.
CONNECTIONS = 8
CONNECT_SECONDS = 5
# The server ends statements in time, unless it is held up itself.
SILENCE_SECONDS = 12.0
# Both ends notice by themselves that the other host is gone.
KEEPALIVES = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
UNACKNOWLEDGED_MILLIS = 10_000
# Where DATABASE_URL says otherwise, that counts.
CONNECTING = {
    "connect_timeout": CONNECT_SECONDS,
    "tcp_user_timeout": UNACKNOWLEDGED_MILLIS,
    "application_name": "chargeapp",
    **KEEPALIVES,
}
# Milliseconds. Waiting for a lock ends before the statement does: its message says more. What a process has locked
# that was stopped in the middle is free after the last.
LIMITS = {
    "lock_timeout": 5_000,
    "statement_timeout": 8_000,
    "idle_in_transaction_session_timeout": 10_000,
    "tcp_user_timeout": UNACKNOWLEDGED_MILLIS,
    "timezone": "UTC",
    **{f"tcp_{name}": value for name, value in KEEPALIVES.items()},
}

Answer = TypeVar("Answer")


class PostgresServer:
    path = None

    def __init__(self, url: URL) -> None:
        self._url = url.set(drivername="postgresql+psycopg")
        self.engine = create_engine(
            self._url,
            creator=self._connect,
            hide_parameters=True,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=CONNECT_SECONDS,
            pool_use_lifo=True,
        )
        self._claims = self.engine.execution_options(loses_with_server=True)
        # One view for all statements, as SQLite gives it.
        self.readers = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._alone = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._notifications = Notifications(self.engine, self._connect)
        self._clock = ServerClock(self._touch)
        clock.follow(self._clock.now)

        @event.listens_for(self.engine, "checkout")
        def look(connection: psycopg.Connection[Any], *_: object) -> None:
            # One that was idle has something to say only if the server closed it meanwhile; asking would cost a trip.
            if connection.closed or has_something_to_say(connection):
                raise DisconnectionError
            self._clock.ask(connection)

        @event.listens_for(self.engine, "begin")
        def begin(connection: Connection) -> None:
            if connection.get_execution_options().get("loses_with_server"):
                connection.exec_driver_sql("SET LOCAL synchronous_commit TO off")

    def _connect(self) -> "PatientConnection":
        words, options = self.engine.dialect.create_connect_args(self._url)
        limits = " ".join(f"-c {name}={value}" for name, value in LIMITS.items())
        options["options"] = f"{limits} {options.get('options', '')}"
        return PatientConnection.connect(*words, **{**CONNECTING, **options})

    def _touch(self) -> None:
        """Raises SQLAlchemyError."""
        self._alone.connect().close()

    def writer(self, *, durable: bool) -> AbstractContextManager[Engine]:
        """Rows are locked, not the database."""
        return nullcontext(self.engine if durable else self._claims)

    def glancing(self) -> AbstractContextManager[Connection]:
        return self._alone.connect()

    def exists(self) -> bool:
        return True

    def create(self) -> None:
        """Nothing: whoever runs the server made the database."""

    def prepare_migration(self, session: Session) -> None:
        session.execute(text("SET LOCAL statement_timeout TO 0"))
        connection: Any = session.connection().connection.dbapi_connection
        connection.silence_seconds = None
        # Behind another migration for as long as that takes; behind the traffic, which queues up, not for long.
        session.execute(text("SET LOCAL lock_timeout TO 0"))
        take_turn(session, "migrations")
        session.execute(text(f"SET LOCAL lock_timeout TO {LIMITS['lock_timeout']}"))

    def checkpoint(self) -> None:
        """The server does it by itself."""

    def wakeups(self, directory: Path) -> Notifications:
        return self._notifications

    def close(self) -> None:
        self._notifications.close()
        self.engine.dispose()


def has_something_to_say(connection: psycopg.Connection[Any]) -> bool:
    # Unlike select, poll takes any number of descriptors.
    reader = select.poll()
    reader.register(connection.fileno(), select.POLLIN)
    return bool(reader.poll(0))


class PatientConnection(psycopg.Connection[Any]):
    """Not for ever: gives up on a server that says nothing at all, so keeps to none of its own limits."""

    silence_seconds: float | None = SILENCE_SECONDS

    def rollback(self) -> None:
        """What is gone needs none."""
        if self.pgconn.pipeline_status:
            # The server ended it in the middle of `executemany`: libpq neither leaves that mode then nor calls it bad.
            self.pgconn.finish()
        if not self.closed:
            super().rollback()

    def wait(self, gen: Generator[Any, Any, Answer], interval: float = 0.1, timeout: float | None = None) -> Answer:
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.silence_seconds)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError("The server has said nothing for too long") from None
