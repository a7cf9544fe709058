"""The PostgreSQL database that is being filled. Until the end its tables have a version that no process starts with."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.orm import Session

from chargeapp.storage.moved import MoveRefused
from chargeapp.storage.moving.source import Change, Origin
from chargeapp.storage.moving.tables import TABLES, MovedTable, Raw

VERSION = "being filled"


@dataclass(frozen=True)
class Progress:
    """Of each table the last row copied, and the number of the last change that was applied."""

    copied: dict[str, int]
    position: int


def is_begun(session: Session) -> bool:
    return _rows(session, sql.SQL("SELECT to_regclass('moving')::text")) == [("moving",)]


def begin(session: Session, origin: Origin) -> Progress:
    """Raises MoveRefused unless it is empty, or was being filled from this very file."""
    if not is_begun(session):
        for name in (*(table.name for table in TABLES), "heartbeats"):
            if _rows(session, sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(name))):
                raise MoveRefused(f"The PostgreSQL database is not empty: there are {name}. Name a new database.")
        _rows(session, sql.SQL("CREATE TABLE moving (origin text, copied text, position bigint, version text)"))
        _rows(
            session,
            sql.SQL("INSERT INTO moving SELECT %s, '{{}}', 0, version_num FROM alembic_version").format(),
            (origin.id,),
        )
        _rows(session, sql.SQL("UPDATE alembic_version SET version_num = %s"), (VERSION,))
    [(id_, copied, position)] = _rows(session, sql.SQL("SELECT origin, copied, position FROM moving"))
    if id_ != origin.id:
        raise MoveRefused("The PostgreSQL database was being filled from another file. Name a new database.")
    return Progress(json.loads(copied), position)


def note(session: Session, progress: Progress) -> None:
    _rows(
        session,
        sql.SQL("UPDATE moving SET copied = %s, position = %s"),
        (json.dumps(progress.copied), progress.position),
    )


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
            _rows(
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


def number_on(session: Session) -> None:
    """New rows get numbers beyond those that were moved."""
    for table in TABLES:
        if table.is_numbered:
            _rows(
                session,
                sql.SQL(
                    "SELECT setval(pg_get_serial_sequence(%s, 'id'), coalesce(max(id), 1), max(id) IS NOT NULL) FROM {}"
                ).format(sql.Identifier(table.name)),
                (table.name,),
            )


def analyze(session: Session) -> None:
    """Without figures of its tables PostgreSQL would look for rows in the wrong way for the first minute."""
    for table in TABLES:
        _rows(session, sql.SQL("ANALYZE {}").format(sql.Identifier(table.name)))


def counts(session: Session) -> dict[str, int]:
    return {
        table.name: _rows(session, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table.name)))[0][0]
        for table in TABLES
    }


def finish(session: Session) -> None:
    """From here on it is a database like any other; the second time there is nothing to do."""
    if is_begun(session):
        _rows(session, sql.SQL("UPDATE alembic_version SET version_num = version FROM moving"))
        _rows(session, sql.SQL("DROP TABLE moving"))


def in_utc(session: Session) -> None:
    """SQLite's times name no zone."""
    _rows(session, sql.SQL("SET LOCAL timezone TO 'UTC'"))


def take_view(session: Session) -> None:
    """What a reading transaction sees from here on is what was committed before."""
    _rows(session, sql.SQL("SELECT 1"))


def unhurried(session: Session) -> None:
    """Whole tables are looked at, which may take longer than the traffic's statements are allowed to."""
    _rows(session, sql.SQL("SET LOCAL statement_timeout TO 0"))
    driver: Any = session.connection().connection.dbapi_connection
    driver.silence_seconds = None


def _copy(session: Session, table: MovedTable, rows: Sequence[Raw]) -> None:
    if not rows:
        return
    with _cursor(session) as cursor:
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
    with _cursor(session) as cursor:
        cursor.executemany(statement, rows)


def _compare(session: Session, table: MovedTable, keys: Sequence[Raw], rows: Sequence[Raw]) -> None:
    if not keys:
        return
    spelled = sql.SQL(", ").join(map(sql.SQL, table.alike))
    found = _rows(
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


def _rows(session: Session, statement: sql.SQL | sql.Composed, parameters: Sequence[object] = ()) -> list[Any]:
    with _cursor(session) as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


def _cursor(session: Session) -> psycopg.Cursor[Any]:
    driver: Any = session.connection().connection.dbapi_connection
    cursor: psycopg.Cursor[Any] = driver.cursor()
    return cursor
