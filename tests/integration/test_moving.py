"""Moving a store to PostgreSQL: everything arrives, a tool that was killed goes on, the old file takes no more."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from cli_support import DRIVER, accept, ago, chargeapp, data_dir, end, now, runtime, tables
from pysqlite3 import dbapi2 as sqlite
from sqlalchemy import delete, select, text
from support.killed_move import move_killed
from support.postgres_server import EMPTY, PostgresServer

from chargeapp.domain.callback import Outcome
from chargeapp.errors import DatabaseUnavailable
from chargeapp.pipeline import AUTHORIZATION
from chargeapp.services.access_list import ANY, Entry, put_entries
from chargeapp.services.retention import Retention, forget
from chargeapp.storage import outbox, schema
from chargeapp.storage.database import Database
from chargeapp.storage.models import Base, EventRecord, Heartbeat, IdempotencyKey
from chargeapp.storage.moved import MoveRefused
from chargeapp.storage.moving.store_move import StoreMove

__all__ = ["data_dir", "tables"]

# What means something in SQLite's JSON or PostgreSQL's COPY.
ODD_KEY = 'a "key"\t\\N\n\\.'
NOT_EMPTY = "chargeapp: The PostgreSQL database is not empty: it has heartbeats. Name a new one."
POINTS = [
    ("target", "begin", 1),  # changes are noted, PostgreSQL knows of nothing
    ("target_rows", "copy", 3),
    ("target", "note", 6),
    ("source", "forget_changes", 1),
    ("target", "analyze", 1),
    ("target", "number_on", 1),
    ("source", "close_for_good", 1),  # PostgreSQL has everything, SQLite still decides
    ("target", "finish", 1),  # SQLite has said that it moved
]


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.new_database(EMPTY) as url:
        yield url


@pytest.fixture
def filled(tables: Path) -> Path:
    """Requests on several steps of their way, and a row of everything else."""
    with runtime() as app:
        for _ in range(3):
            end(app, Outcome.DELIVERED, at=ago(days=60))
        end(app, Outcome.RETRY)
        accept(app)
        with app.database.writing() as session:
            put_entries(session, [Entry(app.vault.hash(DRIVER), "driv…0001", ANY, blocked=True)], now())
            session.add(IdempotencyKey(caller="", key=ODD_KEY, body_hash="h", request_id="r", created_at=now()))
            session.add(Heartbeat(process="relay", at=now()))
            [held] = outbox.claim_and_take(session, AUTHORIZATION.outbox, job_id="under way", limit=1, now=now())
            assert held.ticket.seq == 1
    assert chargeapp("keys", "create", "--name", "hub", "--scope", "submit").status == 0
    assert chargeapp("secrets", "rotate", "--caller", "hub").status == 0
    return tables


def everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.reading() as session:
        return {
            table.name: sorted(map(tuple, session.execute(select(table)).all()), key=repr)
            for table in Base.metadata.sorted_tables
            if table.name != "heartbeats"
        }


def move(url: str) -> dict[str, object]:
    ended = chargeapp("migrate-store", "--to", url, "--json")
    assert ended.status == 0, ended.err
    found: dict[str, object] = json.loads(ended.out)
    return found


def test_every_row_arrives_as_it_was(filled: Path, url: str) -> None:
    with runtime() as app:
        before = everything(app.database)

    told = move(url)

    with runtime() as app:
        assert everything(app.database) == before
        assert app.database.path is None and not app.database.takes_turns
    assert all(before[name] for name in ("events", "api_keys", "webhook_secrets", "idempotency_keys", "access_list"))
    assert told["state"] == "moved"
    assert told["before"] == told["after"] == {name: len(rows) for name, rows in before.items()}


def test_new_rows_are_numbered_after_the_moved_ones(filled: Path, url: str) -> None:
    move(url)

    with runtime() as app:
        request_id = accept(app)
        with app.database.reading() as session:
            assert len(session.scalars(select(EventRecord).where(EventRecord.request_id == request_id)).all()) == 1


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[1]} {point[2]}")
def test_a_tool_that_was_killed_is_repeated(filled: Path, url: str, point: tuple[str, str, int]) -> None:
    with runtime() as app:
        move_killed(url, *point)
        # Where that is by now: a process that ran all the time finds out.
        accept(app)
        end(app, Outcome.DELIVERED, at=ago(days=60))
        before = everything(app.database)
        switched = app.database.path is None

    told = move(url)

    with runtime() as app:
        assert everything(app.database) == before
        assert app.database.path is None
    assert told["state"] == ("moved before" if switched else "moved")
    assert switched == (point[1] == "finish")


def test_a_database_with_something_in_it_is_refused_and_the_store_left_alone(filled: Path, url: str) -> None:
    new = Database(url)
    schema.upgrade(new)
    with new.writing() as session:
        session.add(Heartbeat(process="relay", at=now()))
    new.close()

    ended = chargeapp("migrate-store", "--to", url)

    assert (ended.status, ended.err) == (1, f"{NOT_EMPTY}\n")
    assert triggers(filled) == {"events_never_change"}


def test_a_database_that_another_store_fills_is_refused(
    filled: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_killed(url, "source", "close_for_good", 1)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{filled}/another.db")
    chargeapp("db", "upgrade")

    ended = chargeapp("migrate-store", "--to", url)

    assert ended.status == 1
    assert "another store" in ended.err


def test_nobody_works_with_a_database_that_is_being_filled(
    filled: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_killed(url, "target", "analyze", 1)
    monkeypatch.setenv("DATABASE_URL", url)

    meanwhile = chargeapp("purge")

    assert meanwhile.status == 1
    assert "being filled by chargeapp migrate-store" in meanwhile.err


def test_a_database_that_was_filled_is_like_any_other(filled: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move(url)
    monkeypatch.setenv("DATABASE_URL", url)

    assert chargeapp("db", "status").status == 0
    assert chargeapp("purge", "--json").out.startswith('{"requests": 3,')


def test_what_others_did_there_nevertheless_is_noticed(filled: Path, url: str) -> None:
    move_killed(url, "source", "close_for_good", 1)
    with closing(Database(url)) as new, new.writing() as session:
        session.execute(delete(IdempotencyKey))

    ended = chargeapp("migrate-store", "--to", url)

    assert ended.status == 1
    assert "The counts differ, so nothing was switched" in ended.err


def test_a_move_that_is_given_up_leaves_the_store_as_it_was(filled: Path, url: str, postgres: PostgresServer) -> None:
    move_killed(url, "source", "close_for_good", 1)
    noting = triggers(filled)

    ended = chargeapp("migrate-store", "--to", url, "--abandon")

    assert len(noting) > 1
    assert ended.status == 0
    assert triggers(filled) == {"events_never_change"}


def test_another_database_may_be_named_while_the_first_is_being_filled(
    filled: Path, url: str, postgres: PostgresServer
) -> None:
    move_killed(url, "source", "close_for_good", 1)
    with runtime() as app:
        accept(app)
        before = everything(app.database)

    with postgres.new_database(EMPTY) as second:
        move(second)

        with runtime() as app:
            assert everything(app.database) == before


def test_the_old_file_takes_no_write_from_anybody(filled: Path, url: str) -> None:
    move(url)

    file = sqlite.connect(filled / "chargeapp.db", isolation_level=None)
    for table in (*Base.metadata.tables, "alembic_version"):
        with pytest.raises(sqlite.IntegrityError, match="has moved to PostgreSQL"):
            file.execute(f"INSERT INTO {table} DEFAULT VALUES")
    file.close()


def test_a_process_without_the_keys_is_told_where_to_look(filled: Path, url: str) -> None:
    move(url)

    database = Database(f"sqlite:///{filled}/chargeapp.db")
    with pytest.raises(DatabaseUnavailable, match="set DATABASE_URL"), database.writing():
        pass
    with pytest.raises(DatabaseUnavailable, match="set DATABASE_URL"), database.glancing():
        pass
    database.close()


def test_a_password_is_not_readable_in_the_old_file(filled: Path, url: str) -> None:
    password = "kept-to-itself"
    move(url.replace("@", f":{password}@"))

    assert all(password.encode() not in file.read_bytes() for file in filled.iterdir() if file.is_file())


def test_what_changes_between_the_passes_arrives(filled: Path, url: str) -> None:
    """Rows that came, changed, went, and came again under the number of one that went."""
    with runtime() as app, closing(Database(url)) as new:
        moving = StoreMove(app.database, new)
        list(moving.copy())
        end(app, Outcome.DELIVERED)
        with app.database.writing() as session:
            assert forget(session, Retention(timedelta(days=30), timedelta(days=1)), now()).requests == 3
        list(moving.catch_up())
        moving.check()
        accept(app)
        with app.database.writing() as session:
            put_entries(session, [Entry(app.vault.hash(DRIVER), "driv…0001", ANY, blocked=False)], now())
        before = everything(app.database)

        switched = moving.switch(app.address_vault.seal(url))

        assert switched.before == switched.after
        assert everything(app.database) == before
        assert app.database.path is None


def test_a_second_tool_beside_the_first_gives_up(filled: Path, url: str) -> None:
    with runtime() as app, closing(Database(url)) as new:
        first = StoreMove(app.database, new)
        second = StoreMove(app.database, new)
        list(first.copy())

        with pytest.raises(MoveRefused, match="Somebody else"):
            list(second.copy())


def test_a_backup_made_during_a_move_knows_nothing_of_it(filled: Path, url: str, tmp_path: Path) -> None:
    move_killed(url, "source", "close_for_good", 1)
    assert chargeapp("backup", str(tmp_path / "copy.db")).status == 0
    with runtime() as app, app.database.writing() as session:
        session.execute(delete(Heartbeat))

    assert chargeapp("restore", str(tmp_path / "copy.db"), "--yes").status == 0

    assert triggers(filled) == {"events_never_change"}


def test_a_store_that_has_moved_is_not_restored_in_the_old_place(filled: Path, url: str, tmp_path: Path) -> None:
    assert chargeapp("backup", str(tmp_path / "copy.db")).status == 0
    move(url)

    ended = chargeapp("restore", str(tmp_path / "copy.db"), "--yes")

    assert ended.status == 1
    assert "pg_restore" in ended.err


def triggers(directory: Path) -> set[str]:
    file = sqlite.connect(directory / "chargeapp.db")
    found = {name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}
    file.close()
    return found


def test_a_row_that_postgresql_does_not_take_ends_the_move_and_sqlite_works_on(filled: Path, url: str) -> None:
    with runtime() as app, app.database.writing() as session:
        session.add(IdempotencyKey(caller="", key="zero\0", body_hash="h", request_id="r", created_at=now()))

    ended = chargeapp("migrate-store", "--to", url)

    with runtime() as app:
        accept(app)
        assert app.database.path
    assert ended.status == 1
    assert "PostgreSQL does not take a row" in ended.err


DAMAGE = """
CREATE FUNCTION damage() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.token_masked = 'else'; RETURN NEW; END $$;
CREATE TRIGGER damage BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION damage()
"""


@pytest.mark.parametrize("table", ["access_list", "charging_session_requests"])
def test_a_row_that_arrives_otherwise_ends_the_move(filled: Path, url: str, table: str) -> None:
    with runtime() as app, closing(Database(url)) as new:
        moving = StoreMove(app.database, new)
        with new.writing() as session:
            session.execute(text(DAMAGE.format(table)))

        with pytest.raises(MoveRefused, match=f"does not give back what was copied to {table}"):
            list(moving.copy())


def test_a_change_that_arrives_otherwise_ends_the_move(filled: Path, url: str) -> None:
    with runtime() as app, closing(Database(url)) as new:
        moving = StoreMove(app.database, new)
        list(moving.copy())
        with new.writing() as session:
            session.execute(text(DAMAGE.format("charging_session_requests")))
        accept(app)

        with pytest.raises(MoveRefused, match="does not give back"):
            list(moving.catch_up())


def test_doctor_reminds_of_the_setting(filled: Path, url: str) -> None:
    move(url)

    found = {each["check"]: each for each in json.loads(chargeapp("doctor", "--json").out)["checks"]}

    assert found["store"]["status"] == "warn"
    assert "DATABASE_URL" in found["store"]["advice"]
