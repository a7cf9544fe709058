"""PostgreSQL as the store: nothing waits for ever, a server that went away is found again, tables go up and down."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.orm import Session
from support.builders import NOW, Requests, accept, change, in_time, new_database, rows
from support.postgres_server import EMPTY, PostgresServer, needed_postgres

from chargeapp.errors import DatabaseUnavailable, MisconfiguredError
from chargeapp.storage import heartbeats, postgresql, schema
from chargeapp.storage.database import Database
from chargeapp.storage.models import Base

UPGRADE = """
import sys
from chargeapp.storage import schema
from chargeapp.storage.database import Database
database = Database(sys.argv[1])
sys.stdin.readline()
schema.upgrade(database)
database.close()
"""


@pytest.fixture
def database(postgres: PostgresServer, tmp_path: Path) -> Iterator[Database]:
    with postgres.new_database() as url, new_database(tmp_path, url) as database:
        yield database


@pytest.fixture
def empty(postgres: PostgresServer) -> Iterator[Database]:
    with postgres.new_database(EMPTY) as url:
        database = Database(url)
        yield database
        database.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """For tests that stop it."""
    with PostgresServer(needed_postgres()) as server:
        yield server


@pytest.fixture
def own_database(own_server: PostgresServer, tmp_path: Path) -> Iterator[Database]:
    with own_server.new_database() as url, new_database(tmp_path, url) as database:
        yield database


def setting(session: Session, name: str) -> str | None:
    return session.scalar(text(f"SHOW {name}"))


def beat(database: Database) -> None:
    change(database, lambda session: heartbeats.beat(session, "test", NOW))


@pytest.mark.parametrize(("durable", "expected"), [(True, "on"), (False, "off")])
def test_only_what_may_be_lost_is_committed_without_the_disk(database: Database, durable: bool, expected: str) -> None:
    for _ in range(2):
        with database.writing(durable=durable) as session:
            assert setting(session, "synchronous_commit") == expected
        with database.writing() as session:
            assert setting(session, "synchronous_commit") == "on"


def test_reading_sees_one_state_and_changes_nothing(database: Database) -> None:
    with database.reading() as session:
        session.scalar(text("SELECT 1"))
        accept(database)
        assert session.scalar(text("SELECT count(*) FROM events")) == 0
        assert setting(session, "transaction_read_only") == "on"


def test_a_process_with_many_files_open_connects_and_goes_on(database: Database) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 4096), before[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1024)]
    try:
        other = Database(database.url.render_as_string(hide_password=False))
        for _ in range(2):
            beat(other)
        other.close()
    finally:
        for each in files:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_both_spellings_of_the_url_mean_psycopg_3(database: Database, scheme: str) -> None:
    same = Database(str(database.url.set(drivername=scheme)))
    beat(same)
    same.close()


def test_what_the_url_says_comes_first(database: Database) -> None:
    url = f"{database.url}&options=-c%20lock_timeout%3D77&application_name=other"
    other = Database(url)
    with other.writing() as session:
        found = [setting(session, name) for name in ("lock_timeout", "statement_timeout", "application_name")]
    other.close()

    assert found == ["77ms", "8s", "other"]


def test_a_missing_driver_is_named() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from chargeapp.errors import MisconfiguredError; from chargeapp.storage.database import Database\n"
        "try: Database('postgresql://db.example/chargeapp')\n"
        "except MisconfiguredError as error: print(error)"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)

    assert "pip install 'psycopg[binary]'" in ended.stdout, ended.stderr


@pytest.mark.parametrize(
    ("limit", "sleep"), [("statement_timeout", 8_000), ("idle_in_transaction_session_timeout", 10_000)]
)
def test_the_server_itself_limits_how_long_anything_takes(database: Database, limit: str, sleep: int) -> None:
    with database.writing() as session:
        assert setting(session, limit) == f"{sleep // 1000}s"
        session.execute(text(f"SET LOCAL {limit} TO 50"))

    def work(session: Session) -> None:
        session.execute(text(f"SET LOCAL {limit} TO 50"))
        if limit == "statement_timeout":
            session.execute(text("SELECT pg_sleep(10)"))
        time.sleep(0.2)
        session.execute(text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        change(database, work)
    beat(database)


def test_a_lock_is_waited_for_and_not_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    accept(database)
    monkeypatch.setitem(postgresql.LIMITS, "lock_timeout", 50)
    other = Database(str(database.url))
    lock = text("SELECT id FROM charging_session_request_outbox FOR UPDATE")

    with database.writing() as session:
        session.execute(lock)
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            change(other, lambda waiting: waiting.execute(lock))
    other.close()


def test_a_server_that_says_nothing_is_given_up(own_database: Database, own_server: PostgresServer) -> None:
    with own_database.writing() as session:
        backend = session.scalar(text("SELECT pg_backend_pid()"))
        session.connection().connection.dbapi_connection.silence_seconds = 0.2
    with own_server.stopped(backend):
        raised = in_time(lambda: beat(own_database), 5)

    assert isinstance(raised, DatabaseUnavailable)
    beat(own_database)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_was_restarted_is_found_again(
    own_database: Database, own_server: PostgresServer, how: signal.Signals
) -> None:
    accepted = accept(own_database)
    own_server.stop(how)
    with pytest.raises(DatabaseUnavailable):
        beat(own_database)
    with pytest.raises(DatabaseUnavailable):
        rows(own_database, Requests)
    own_server.start()

    accepted += accept(own_database)

    assert [each.request_id for each in rows(own_database, Requests)] == accepted


def test_a_restart_that_nobody_saw_costs_nobody_a_failure(own_database: Database, own_server: PostgresServer) -> None:
    with own_database.reading() as one, own_database.reading() as other:
        one.scalar(text("SELECT 1"))
        other.scalar(text("SELECT 1"))
    own_server.stop()
    own_server.start()

    beat(own_database)
    accept(own_database)


@pytest.mark.parametrize("opened", ["writing", "reading", "glancing"])
def test_a_server_that_closes_new_connections_too_is_the_databases_trouble(
    database: Database, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    """As one does that is just ending, or beginning: SQLAlchemy tries twice and then takes it for a fault of ours."""
    monkeypatch.setattr(postgresql, "has_something_to_say", lambda _: True)

    with pytest.raises(DatabaseUnavailable, match="closes every connection"), getattr(database, opened)():
        pass

    monkeypatch.undo()
    beat(database)


def test_a_connection_that_was_cut_in_a_transaction_is_the_databases_trouble(database: Database) -> None:
    def cut_itself(session: Session) -> None:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DatabaseUnavailable):
        change(database, cut_itself)
    beat(database)


def test_a_connection_that_was_cut_among_many_rows_is_replaced_in_silence(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def cut_in_pipeline_mode(session: Session) -> None:
        driver: Any = session.connection().connection.dbapi_connection
        driver.pgconn.enter_pipeline_mode()
        raise psycopg.OperationalError("cannot exit pipeline mode while busy")

    with pytest.raises(psycopg.OperationalError):
        change(database, cut_in_pipeline_mode)
    beat(database)
    assert caplog.text == ""


def test_more_threads_than_connections_take_turns(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    held = [database.reading() for _ in range(postgresql.CONNECTIONS)]
    for each in held:
        each.__enter__().execute(text("SELECT 1"))
    monkeypatch.setattr(database.engine.pool, "_timeout", 0.05)

    with pytest.raises(DatabaseUnavailable):
        beat(database)

    for each in held:
        each.__exit__(None, None, None)
    beat(database)


def test_missing_tables_are_the_databases_trouble(empty: Database) -> None:
    with pytest.raises(DatabaseUnavailable, match="does not exist"):
        beat(empty)


def test_migrations_go_up_and_down_again(empty: Database) -> None:
    schema.upgrade(empty)
    accept(empty)
    schema.downgrade(empty, "base")

    left = text(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    with empty.reading() as session:
        assert {name for name in session.scalars(left) if not name.startswith("alembic")} == set()
    assert schema.status(empty).current is None
    schema.upgrade(empty)
    assert schema.status(empty).up_to_date
    accept(empty)


def test_the_migrations_make_what_the_models_say(database: Database) -> None:
    with database.reading() as session:
        assert compare_metadata(MigrationContext.configure(session.connection()), Base.metadata) == []


def test_several_processes_may_upgrade_at_once(empty: Database) -> None:
    script = [sys.executable, "-c", UPGRADE, str(empty.url)]
    processes = [subprocess.Popen(script, stdin=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdin
        process.stdin.write(b"go\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=30)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], errors
    assert schema.status(empty).up_to_date


def test_a_migration_may_take_longer_than_anything_else(empty: Database) -> None:
    with empty.migrating() as session:
        assert (setting(session, "statement_timeout"), setting(session, "lock_timeout")) == ("0", "5s")


@pytest.mark.parametrize("url", ["postgresql+asyncpg://db/x", "postgresql+psycopg2://db/x", "postgres://db/x"])
def test_other_drivers_are_refused(url: str) -> None:
    with pytest.raises(MisconfiguredError, match="DATABASE_URL"):
        Database(url)


def test_it_does_not_answer_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    database = Database(f"postgresql://nobody@/chargeapp?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable):
        beat(database)
    database.close()
