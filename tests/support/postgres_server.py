"""A real PostgreSQL on a private socket, with a database for each test."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from psycopg import sql

from chargeapp.storage import schema
from chargeapp.storage.database import Database

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from drilling import postgres_server

EMPTY = "template1"
MIGRATED = "migrated"
numbers = count()


def needed_postgres() -> Path:
    """The directory of its programs, for tests that cannot do without."""
    programs = postgres_server.find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed. On Debian or Ubuntu: sudo apt-get install postgresql")
    return programs


class PostgresServer(postgres_server.PostgresServer):
    """A context manager; may be stopped and started again in between."""

    def __init__(self, programs: Path, **options: str) -> None:
        # Nothing but the machine could lose what is not synced, so tests need not wait for the disk.
        super().__init__(programs, fsync="off", **options)

    @contextmanager
    def new_database(self, template: str = MIGRATED) -> Iterator[str]:
        """The URL of one that has all tables, or with `EMPTY` none."""
        name = f"test_{next(numbers)}"
        self.create_database(name, template)
        yield self.url(name)
        # Processes that a test killed may not have gone yet.
        self.run(sql.SQL("DROP DATABASE {} WITH (FORCE)"), name)

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """One of its processes is held still."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def __enter__(self) -> "PostgresServer":
        self.initialize()
        self.start()
        self.create_database(MIGRATED)
        template = Database(self.url(MIGRATED))
        schema.upgrade(template)
        template.close()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.remove()
