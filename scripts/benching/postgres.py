"""PostgreSQL for the measurements that need it; the others run without its driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drilling.postgres_database import PostgresDatabase
    from drilling.postgres_server import PostgresServer


@contextmanager
def postgresql() -> Iterator["tuple[PostgresDatabase, PostgresServer]"]:
    """An empty database on a server of its own; raises RuntimeError that says what to install."""
    try:
        from drilling.postgres_database import NAME, PostgresDatabase
        from drilling.postgres_server import PostgresServer, find_postgres
    except ModuleNotFoundError as error:
        wanted = ".venv/bin/pip install --require-hashes -r requirements-postgres.lock"
        raise RuntimeError(f"The driver for PostgreSQL is missing:  {wanted}") from error
    programs = find_postgres()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed:  sudo apt-get install postgresql")
    server = PostgresServer(programs)
    store = PostgresDatabase(server.url(NAME), server)
    store.start()
    try:
        yield store, server
    finally:
        store.stop()
        store.forget()
