"""The PostgreSQL database that is being filled: until the end it takes nothing from anybody else."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chargeapp.storage.moved import MoveRefused
from chargeapp.storage.moving.source import Change, Origin
from chargeapp.storage.moving.tables import NOT_MOVED, TABLES, MovedTable, Raw

FILLED = (*(table.name for table in TABLES), *sorted(NOT_MOVED))
# Rights that are missing count as trouble with the database: the API answers 503, workers try again.
GUARD = """
CREATE OR REPLACE FUNCTION refuse_others() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
IF current_setting('chargeapp.filling', true) IS DISTINCT FROM 'on' THEN
    RAISE EXCEPTION 'This database is being filled by chargeapp migrate-store' USING ERRCODE = 'insufficient_privilege';
END IF;
RETURN NULL;
END $$
"""


@dataclass(frozen=True)
class Progress:
    """Of each table the last row copied, and the number of the last change that was applied."""

    copied: dict[str, int]
    position: int


def is_begun(session: Session) -> bool:
    return _rows(session, sql.SQL("SELECT to_regclass('moving')::text")) == [("moving",)]


def origin(session: Session) -> str | None:
    """The id of the move that fills it, None if it is empty; raises MoveRefused if it is neither."""
    if is_begun(session):
        return str(_rows(session, sql.SQL("SELECT origin FROM moving"))[0][0])
    for name in FILLED:
        if _rows(session, sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(name))):
            raise MoveRefused(f"The PostgreSQL database is not empty: it has {name}. Name a new one.")
    return None


def begin(session: Session, origin: Origin) -> None:
    _rows(session, sql.SQL("CREATE TABLE moving (origin text, copied text, position bigint)"))
    _rows(session, sql.SQL("INSERT INTO moving VALUES (%s, %s, 0)"), (origin.id, json.dumps({})))


def close_to_others(session: Session) -> None:
    """They would be at work beside those on SQLite."""
    open_to_others(session)
    _rows(session, sql.SQL(GUARD))
    for name in FILLED:
        _rows(
            session,
            sql.SQL(
                "CREATE TRIGGER refuse_others BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse_others()"
            ).format(sql.Identifier(name)),
        )


def open_to_others(session: Session) -> None:
    _rows(session, sql.SQL("DROP FUNCTION IF EXISTS refuse_others() CASCADE"))


def progress(session: Session) -> Progress:
    """Nobody else fills it until this transaction ends."""
    [(copied, position)] = _rows(session, sql.SQL("SELECT copied, position FROM moving FOR UPDATE"))
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
    _rows(session, sql.SQL("DROP TABLE IF EXISTS moving"))


def fill(session: Session) -> None:
    """This transaction may; and SQLite's times, which name no zone, are in UTC."""
    _rows(session, sql.SQL("SET LOCAL chargeapp.filling TO 'on'"))
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


@contextmanager
def _cursor(session: Session) -> Iterator[psycopg.Cursor[Any]]:
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
