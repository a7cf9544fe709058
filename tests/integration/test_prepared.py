"""Prepared statements behave as SQLAlchemy's own execution of them does."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.orm import Session
from support.builders import NOW, accept, new_database

from chargeapp.errors import DatabaseUnavailable
from chargeapp.storage.database import Database
from chargeapp.storage.models import ChargingSessionRequestOutbox, SessionRequest, Tally
from chargeapp.storage.prepared import Prepared, run_on_driver

ROWS: Any = ChargingSessionRequestOutbox.__table__
BY_ID = Prepared(
    select(ROWS.c.id, ROWS.c.payload, ROWS.c.due_at, ROWS.c.settled_at)
    .where(ROWS.c.id.in_(bindparam("ids", expanding=True)), ROWS.c.attempts == 0)
    .order_by(ROWS.c.id)
)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with new_database(tmp_path) as database:
        accept(database, 3)
        with database.writing() as session:
            yield session


@pytest.mark.parametrize("ids", [[], [2], [1, 2, 3], [3, 9]])
def test_rows_are_what_sqlalchemy_reads(session: Session, ids: list[int]) -> None:
    found = BY_ID.rows(session, {"ids": ids})

    expected = select(ROWS.c.id, ROWS.c.payload, ROWS.c.due_at, ROWS.c.settled_at).where(ROWS.c.id.in_(ids))
    assert [tuple(row) for row in found] == [tuple(row) for row in session.execute(expected.order_by(ROWS.c.id))]
    assert all(row.payload["request_id"] and row.due_at == NOW for row in found)


def test_a_change_says_how_many_rows_it_met(session: Session) -> None:
    change = Prepared(update(ROWS).where(ROWS.c.id >= bindparam("least")).values(due_at=bindparam("due")))
    later = NOW + timedelta(hours=1)

    assert change.change(session, {"least": 2, "due": later}) == 2
    assert [row.due_at for row in BY_ID.rows(session, {"ids": [1, 2, 3]})] == [NOW, later, later]


def test_a_change_can_be_made_once_for_each(session: Session) -> None:
    store = Prepared(insert(Tally))

    store.change_each(session, [{"name": name, "minute": NOW, "count": 1, "millis": 2} for name in "ab"])
    store.change_each(session, [])

    assert sorted(session.scalars(select(Tally.name).where(Tally.name.in_(["a", "b"])))) == ["a", "b"]


def test_what_the_driver_refuses_is_raised_as_sqlalchemy_does_and_names_no_value(session: Session) -> None:
    twice = Prepared(update(SessionRequest).values(id=bindparam("new")))

    with pytest.raises(IntegrityError) as caught:
        twice.change(session, {"new": "secret-value"})

    assert "secret-value" not in str(caught.value)


def test_a_command_that_makes_no_sense_is_an_operational_error(session: Session) -> None:
    with pytest.raises(OperationalError, match="no such table"):
        run_on_driver(session.connection(), "DELETE FROM nowhere")


def test_what_was_changed_is_gone_with_the_transaction(tmp_path: Path) -> None:
    class UndoneError(Exception):
        pass

    def change(database: Database) -> None:
        with database.writing() as session:
            Prepared(update(ROWS).values(attempts=7)).change(session, {})
            raise UndoneError

    with new_database(tmp_path) as database:
        accept(database)
        with pytest.raises(UndoneError):
            change(database)
        with database.reading() as session:
            assert len(BY_ID.rows(session, {"ids": [1]})) == 1


def test_a_parameter_that_is_missing_is_not_taken_for_null(session: Session) -> None:
    due = Prepared(select(ROWS.c.id).where(ROWS.c.due_at <= bindparam("now", type_=ROWS.c.due_at.type)))
    assert len(due.rows(session, {"now": NOW})) == 3

    with pytest.raises(InvalidRequestError, match="'now'"):
        due.rows(session, {})


def test_what_is_found_damaged_while_reading_is_raised_as_sqlalchemy_does(tmp_path: Path) -> None:
    with new_database(tmp_path) as database:
        accept(database, 300)
        database.checkpoint()
        path = database.path
    assert path is not None
    with path.open("r+b") as file:
        for page in range(8, file.seek(0, 2) // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    damaged = Database(f"sqlite:///{path}")
    with pytest.raises(DatabaseUnavailable), damaged.reading() as session:
        BY_ID.rows(session, {"ids": list(range(1, 301))})
    damaged.close()
