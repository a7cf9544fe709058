"""On PostgreSQL everybody goes by its clock, asked by a connection that is used anyway."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg import OperationalError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from support.postgres_server import PostgresServer

from chargeapp import clock
from chargeapp.storage import server_clock
from chargeapp.storage.database import Database

HOUR = 3600.0


def an_hour_ahead() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
def database(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """Asked by a host whose wall clock is an hour ahead."""
    monkeypatch.setattr(clock, "wall_clock", an_hour_ahead)
    with postgres.new_database() as url:
        database = Database(url)
        yield database
        database.close()


def servers_time(database: Database) -> float:
    with database.reading() as session:
        return float(session.scalar(text("SELECT extract(epoch FROM clock_timestamp())")))


def test_the_time_is_the_servers_from_the_first_moment_on(database: Database) -> None:
    found = clock.utcnow().timestamp()

    assert found == pytest.approx(servers_time(database), abs=60)
    assert clock.seconds_behind() == pytest.approx(HOUR, abs=60)


def test_a_server_whose_clock_was_set_is_followed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock.utcnow()
    known = database._store._clock  # type: ignore[attr-defined]
    known._offset += HOUR
    servers_time(database)
    asked_again_too_soon = clock.utcnow().timestamp()

    monkeypatch.setattr(server_clock, "ASK_SECONDS", 0.0)
    found = servers_time(database)

    assert asked_again_too_soon - found > HOUR / 2
    assert clock.utcnow().timestamp() == pytest.approx(found, abs=60)


def test_while_the_server_was_never_there_it_is_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "wall_clock", an_hour_ahead)
    database = Database("postgresql://nobody@127.0.0.1:1/none")

    assert (clock.utcnow() - datetime.now(UTC)).total_seconds() == pytest.approx(HOUR, abs=60)
    database.close()


def test_a_server_that_comes_later_is_asked_then(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    known = database._store._clock  # type: ignore[attr-defined]
    touch = known._ask_by_itself
    monkeypatch.setattr(known, "_ask_by_itself", away)
    assert (clock.utcnow() - datetime.now(UTC)).total_seconds() == pytest.approx(HOUR, abs=60)

    monkeypatch.setattr(known, "_ask_by_itself", touch)
    monkeypatch.setattr(server_clock, "FIRST_ASK_SECONDS", 0.0)

    assert abs((clock.utcnow() - datetime.now(UTC)).total_seconds()) < 60


def test_a_question_that_was_not_answered_is_asked_again(database: Database) -> None:
    known = database._store._clock  # type: ignore[attr-defined]
    with pytest.raises(OperationalError):
        known.ask(Unanswering())

    servers_time(database)

    assert known._offset is not None


class Unanswering:
    def execute(self, _: str) -> None:
        raise OperationalError("gone")


def away() -> None:
    raise SQLAlchemyError
