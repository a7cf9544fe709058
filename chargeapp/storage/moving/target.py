"""The PostgreSQL database that is being filled: until the end it takes nothing from anybody else."""

import json
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from sqlalchemy.orm import Session

from chargeapp.storage.moved import MoveRefused
from chargeapp.storage.moving.source import Origin
from chargeapp.storage.moving.tables import NOT_MOVED, TABLES
from chargeapp.storage.moving.target_rows import run

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
    return run(session, sql.SQL("SELECT to_regclass('moving')::text")) == [("moving",)]


def origin(session: Session) -> str | None:
    """The id of the move that fills it, None if it is empty; raises MoveRefused if it is neither."""
    if is_begun(session):
        return str(run(session, sql.SQL("SELECT origin FROM moving"))[0][0])
    for name in FILLED:
        if run(session, sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(name))):
            raise MoveRefused(f"The PostgreSQL database is not empty: it has {name}. Name a new one.")
    return None


def begin(session: Session, origin: Origin) -> None:
    run(session, sql.SQL("CREATE TABLE moving (origin text, copied text, position bigint)"))
    run(session, sql.SQL("INSERT INTO moving VALUES (%s, %s, 0)"), (origin.id, json.dumps({})))


def close_to_others(session: Session) -> None:
    """They would be at work beside those on SQLite."""
    open_to_others(session)
    run(session, sql.SQL(GUARD))
    for name in FILLED:
        # To be opened, a table must be in nobody's use.
        run(session, sql.SQL("ALTER TABLE {} SET (autovacuum_enabled = off)").format(sql.Identifier(name)))
        run(
            session,
            sql.SQL(
                "CREATE TRIGGER refuse_others BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {}"
                " FOR EACH STATEMENT EXECUTE FUNCTION refuse_others()"
            ).format(sql.Identifier(name)),
        )


def open_to_others(session: Session) -> None:
    run(session, sql.SQL("DROP FUNCTION IF EXISTS refuse_others() CASCADE"))


def progress(session: Session) -> Progress:
    """Nobody else fills it until this transaction ends."""
    [(copied, position)] = run(session, sql.SQL("SELECT copied, position FROM moving FOR UPDATE"))
    return Progress(json.loads(copied), position)


def note(session: Session, progress: Progress) -> None:
    run(
        session,
        sql.SQL("UPDATE moving SET copied = %s, position = %s"),
        (json.dumps(progress.copied), progress.position),
    )


def number_on(session: Session) -> None:
    """New rows get numbers beyond those that were moved."""
    for table in TABLES:
        if table.is_numbered:
            run(
                session,
                sql.SQL(
                    "SELECT setval(pg_get_serial_sequence(%s, 'id'), coalesce(max(id), 1), max(id) IS NOT NULL) FROM {}"
                ).format(sql.Identifier(table.name)),
                (table.name,),
            )


def analyze(session: Session) -> None:
    """Without figures of its tables PostgreSQL would look for rows in the wrong way for the first minute."""
    for table in TABLES:
        run(session, sql.SQL("ANALYZE {}").format(sql.Identifier(table.name)))


def counts(session: Session) -> dict[str, int]:
    return {
        table.name: run(session, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table.name)))[0][0]
        for table in TABLES
    }


def finish(session: Session) -> None:
    """From here on it is a database like any other; the second time there is nothing to do."""
    for name in FILLED:
        run(session, sql.SQL("ALTER TABLE {} RESET (autovacuum_enabled)").format(sql.Identifier(name)))
    run(session, sql.SQL("DROP TABLE IF EXISTS moving"))


def fill(session: Session) -> None:
    """This transaction may; and SQLite's times, which name no zone, are in UTC."""
    run(session, sql.SQL("SET LOCAL chargeapp.filling TO 'on'"))
    run(session, sql.SQL("SET LOCAL timezone TO 'UTC'"))


def take_view(session: Session) -> None:
    """What a reading transaction sees from here on is what was committed before."""
    run(session, sql.SQL("SELECT 1"))


def unhurried(session: Session) -> None:
    """Whole tables are looked at, which may take longer than the traffic's statements are allowed to."""
    run(session, sql.SQL("SET LOCAL statement_timeout TO 0"))
    driver: Any = session.connection().connection.dbapi_connection
    driver.silence_seconds = None
