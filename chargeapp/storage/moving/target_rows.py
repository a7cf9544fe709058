"""Rows on their way into PostgreSQL: copied, replaced, and each of them read back and compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chargeapp.storage.moved import MoveRefused
from chargeapp.storage.moving.source import Change
from chargeapp.storage.moving.tables import TABLES, MovedTable, Raw


def copy(session: Session, table: MovedTable, rows: Sequence[Raw]) -> None:
    """New rows; raises MoveRefused unless PostgreSQL gives back the same."""
    _copy(session, table, rows)
    _compare(session, table, [tuple(row[place] for place in table.key_places) for row in rows], rows)


def apply(session: Session, changed: dict[MovedTable, list[Change]]) -> None:
    """Makes the rows that changed what they are; raises MoveRefused unless PostgreSQL gives back the same."""
    for table in reversed(TABLES):
        # What others refer to stays while it exists.
        gone = [each.key for each in changed[table] if each.row is None or not table.has_children]
        if gone:
            run(
                session,
                sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table.name), _among(table)),
                _columns(table, gone),
            )
    for table in TABLES:
        rows = [each.row for each in changed[table] if each.row is not None]
        if table.has_children:
            _put(session, table, rows)
        else:
            _copy(session, table, rows)
    for table in TABLES:
        present = [each.row for each in changed[table] if each.row is not None]
        _compare(session, table, [each.key for each in changed[table]], present)


def run(session: Session, statement: sql.SQL | sql.Composed, parameters: Sequence[object] = ()) -> list[Any]:
    """All rows that the statement returns."""
    with cursor_of(session) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def cursor_of(session: Session) -> Iterator[psycopg.Cursor[Any]]:
    """The driver's own; raises what SQLAlchemy would, and MoveRefused for a row that PostgreSQL does not take."""
    connection = session.connection()
    driver: Any = connection.connection.dbapi_connection
    try:
        with driver.cursor() as cursor:
            yield cursor
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        # Not the whole message: it may show the row.
        raise MoveRefused(f"PostgreSQL does not take a row: {error.diag.message_primary or error}") from error
    except psycopg.Error as error:
        raise DBAPIError.instance(
            "", None, error, psycopg.Error, hide_parameters=True, dialect=connection.dialect
        ) from error


def _copy(session: Session, table: MovedTable, rows: Sequence[Raw]) -> None:
    if not rows:
        return
    with cursor_of(session) as cursor:
        words = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), _names(table.columns))
        with cursor.copy(words) as copying:
            for row in rows:
                copying.write_row(row)


def _put(session: Session, table: MovedTable, rows: Sequence[Raw]) -> None:
    if not rows:
        return
    others = [name for name in table.columns if name not in table.key]
    statement = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT ({}) DO UPDATE SET ({}) = ROW ({})").format(
        sql.Identifier(table.name),
        _names(table.columns),
        sql.SQL(", ").join(sql.Placeholder() * len(table.columns)),
        _names(table.key),
        _names(others),
        sql.SQL(", ").join(sql.Identifier("excluded", name) for name in others),
    )
    with cursor_of(session) as cursor:
        cursor.executemany(statement, rows)


def _compare(session: Session, table: MovedTable, keys: Sequence[Raw], rows: Sequence[Raw]) -> None:
    if not keys:
        return
    spelled = sql.SQL(", ").join(map(sql.SQL, table.alike))
    found = run(
        session,
        sql.SQL("SELECT {} FROM {} WHERE {}").format(spelled, sql.Identifier(table.name), _among(table)),
        _columns(table, keys),
    )
    if len(found) != len(rows) or set(found) != set(rows):
        raise MoveRefused(f"PostgreSQL does not give back what was copied to {table.name}. Nothing was switched.")


def _among(table: MovedTable) -> sql.Composed:
    lists = sql.SQL(", ").join(sql.SQL("%s::{}[]").format(sql.SQL(type_)) for type_ in table.key_types)
    return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(_names(table.key), lists)


def _columns(table: MovedTable, keys: Sequence[Raw]) -> tuple[list[str], ...]:
    return tuple([str(key[at]) for key in keys] for at in range(len(table.key)))


def _names(columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, columns))
