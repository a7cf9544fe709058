"""A database in PostgreSQL under drill."""

import contextlib
import signal
import time
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from chargeapp.errors import DatabaseUnavailable
from chargeapp.storage.database import Database
from drilling.postgres_server import PostgresServer

NAME = "drill"
AWAY_SECONDS = 1.0
# Milliseconds; what lasts longer was forgotten.
BRIEFLY = 1_000
TABLES = text("SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
CUT = text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
""")
IDLE_IN_TRANSACTION = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND state LIKE 'idle in transaction%'
    AND state_change < clock_timestamp() - :milliseconds * interval '1 millisecond'
""")
CHECK_INDEXES = text("""
    SELECT bt_index_check(indexrelid, true) FROM pg_index
    JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam
    WHERE amname = 'btree' AND relnamespace = current_schema()::regnamespace
""")


class PostgresDatabase:
    """An empty database that somebody lends, or with `server` one there: only such a server is ever stopped."""

    def __init__(self, url: str, server: PostgresServer | None = None) -> None:
        self.url = url
        self.words = " --database postgresql" if server else " --database URL"
        self.database = Database(url)
        self._server = server
        self.faults: dict[str, Callable[[], bool]] = {"cut connections": self._cut}
        if server:
            self.faults["restart database"] = lambda: self._restart(server, signal.SIGINT)
            self.faults["crash database"] = lambda: self._restart(server, signal.SIGQUIT)

    def start(self) -> None:
        """Raises LookupError for a database that is not empty."""
        if self._server:
            self._server.initialize()
            self._server.start()
            self._server.create_database(NAME)
        with self.database.reading() as session:
            if session.scalar(TABLES):
                raise LookupError("The database is not empty. A drill needs one of its own: CREATE DATABASE drill")

    def stop(self) -> None:
        self.database.close()
        if self._server:
            self._server.stop()

    def forget(self) -> None:
        if self._server:
            self._server.remove()

    def engine(self) -> str:
        with self.database.reading() as session:
            version = str(session.scalar(text("SHOW server_version"))).split()[0]
        return f"PostgreSQL {version}"

    def log_bytes(self) -> int | None:
        return None

    def idle_transactions(self) -> int | None:
        with self.database.reading() as session:
            return int(session.scalar(IDLE_IN_TRANSACTION, {"milliseconds": BRIEFLY}) or 0)

    def integrity(self) -> str | None:
        try:
            with self.database.writing() as session:
                session.execute(text("CREATE EXTENSION IF NOT EXISTS amcheck"))
        except (DatabaseUnavailable, DBAPIError):
            return None
        try:
            with self.database.writing() as session:
                session.execute(text("SET LOCAL statement_timeout TO 0"))
                session.execute(CHECK_INDEXES)
        except (DatabaseUnavailable, DBAPIError) as error:
            return str(error)
        return "ok"

    def _cut(self) -> bool:
        with contextlib.suppress(DatabaseUnavailable), self.database.glancing() as connection:
            connection.execute(CUT)
            return True
        return False

    def _restart(self, server: PostgresServer, number: signal.Signals) -> bool:
        server.stop(number)
        time.sleep(AWAY_SECONDS)
        server.start()
        return True
