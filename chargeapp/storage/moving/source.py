"""The SQLite file that is left: what is in it, what changes in it meanwhile, and its end."""

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from chargeapp.storage.models import Base
from chargeapp.storage.moved import MOVED, REFUSAL
from chargeapp.storage.moving.tables import REQUESTS, TABLES, MovedTable, Raw
from chargeapp.storage.prepared import rows_on_driver

# The row that each trigger looks at.
NOTED = {"INSERT": "NEW", "UPDATE": "NEW", "DELETE": "OLD"}


@dataclass(frozen=True)
class Origin:
    """Rows beyond the `last` ones came later, so they are among the changes."""

    id: str
    last: dict[str, int]
    newest_request: str


@dataclass(frozen=True)
class Change:
    """A row as it is now, None if it is gone."""

    key: tuple[object, ...]
    row: Raw | None


def begin(session: Session) -> Origin:
    """From here on every change is noted; what was noted for a move before is forgotten."""
    connection = session.connection()
    forget(session)
    last = {table.name: _one(connection, f"SELECT coalesce(max(rowid), 0) FROM {table.name}") for table in TABLES}
    found = Origin(uuid.uuid4().hex, last, _one(connection, f"SELECT coalesce(max(id), '') FROM {REQUESTS}"))
    rows_on_driver(connection, "CREATE TABLE moving (id TEXT, last TEXT, newest_request TEXT)")
    rows_on_driver(
        connection, "INSERT INTO moving VALUES (?, ?, ?)", (found.id, json.dumps(last), found.newest_request)
    )
    rows_on_driver(
        connection, "CREATE TABLE moving_changes (number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, row_key TEXT)"
    )
    for table in TABLES:
        _note_changes(connection, table)
    return found


def origin(session: Session) -> Origin | None:
    """What the move began with that is under way."""
    connection = session.connection()
    if not rows_on_driver(connection, "SELECT 1 FROM sqlite_master WHERE name = 'moving'"):
        return None
    [(id_, last, newest)] = rows_on_driver(connection, "SELECT id, last, newest_request FROM moving")
    return Origin(id_, json.loads(last), newest)


def _note_changes(connection: Connection, table: MovedTable) -> None:
    for event, row in NOTED.items():
        key = ", ".join(f"{row}.{column}" for column in table.key)
        rows_on_driver(
            connection,
            f"CREATE TRIGGER moving_{table.name}_{event} AFTER {event} ON {table.name} BEGIN"
            f" INSERT INTO moving_changes (name, row_key) VALUES ('{table.name}', json_array({key})); END",
        )


def page(session: Session, table: MovedTable, origin: Origin, after: int, limit: int) -> tuple[int, list[Raw]]:
    """Rows that were there at the beginning, and where the next page begins; at the end there are none."""
    # The number of a row that was removed may be given to a new one, and its request need not be there yet.
    newest = "request_id" if table.belongs_to_request else "''"
    found = rows_on_driver(
        session.connection(),
        f"SELECT rowid, {', '.join(table.columns)} FROM {table.name}"
        f" WHERE rowid > ? AND rowid <= ? AND {newest} <= ? ORDER BY rowid LIMIT ?",
        (after, origin.last[table.name], origin.newest_request, limit),
    )
    return (found[-1][0] if found else after), [row[1:] for row in found]


def last_change(session: Session, after: int, limit: int) -> tuple[int, int]:
    """The number of the last of the next `limit` changes, and how many they are."""
    [(last, count)] = rows_on_driver(
        session.connection(),
        "SELECT coalesce(max(number), ?), count(*) FROM"
        " (SELECT number FROM moving_changes WHERE number > ? ORDER BY number LIMIT ?)",
        (after, after, limit),
    )
    return last, count


def changes(session: Session, table: MovedTable, after: int, until: int) -> list[Change]:
    """Each row only once, however often it changed."""
    same = " AND ".join(f"t.{column} = json_extract(c.row_key, '$[{at}]')" for at, column in enumerate(table.key))
    found = rows_on_driver(
        session.connection(),
        f"SELECT c.row_key, {', '.join(f't.{column}' for column in table.columns)} FROM"
        " (SELECT DISTINCT row_key FROM moving_changes WHERE number > ? AND number <= ? AND name = ?) c"
        f" LEFT JOIN {table.name} t ON {same}",
        (after, until, table.name),
    )
    # The first column of every table is part of its key, so is never empty.
    return [
        Change(tuple(json.loads(key)), (first, *rest) if first is not None else None) for key, first, *rest in found
    ]


def forget_changes(session: Session, until: int) -> None:
    rows_on_driver(session.connection(), "DELETE FROM moving_changes WHERE number <= ?", (until,))


def counts(cursor: Any) -> dict[str, int]:
    """`cursor` is the driver's own: it can still look when transactions are refused."""
    return {table.name: cursor.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] for table in TABLES}


def close_for_good(session: Session, sealed: bytes) -> None:
    """With this commit the store is elsewhere; whoever may have the file open, nobody writes to it again."""
    connection = session.connection()
    forget(session)
    rows_on_driver(connection, "CREATE TABLE moved_to (url BLOB NOT NULL)")
    rows_on_driver(connection, "INSERT INTO moved_to VALUES (?)", (sealed,))
    for name in (*Base.metadata.tables, "alembic_version", "moved_to"):
        for event in NOTED:
            rows_on_driver(
                connection,
                f"CREATE TRIGGER moved_{name}_{event} BEFORE {event} ON {name}"
                f" BEGIN SELECT RAISE(ABORT, '{REFUSAL}'); END",
            )
    rows_on_driver(connection, f"PRAGMA user_version = {MOVED}")


def forget(session: Session) -> None:
    """The move is given up."""
    abandon(partial(rows_on_driver, session.connection()))


def abandon(run: Callable[[str], Iterable[Any]]) -> None:
    """Changes are noted no longer; `run` executes a statement and returns its rows."""
    for (trigger,) in list(run("SELECT name FROM sqlite_master WHERE type = 'trigger' AND name GLOB 'moving_*'")):
        run(f"DROP TRIGGER {trigger}")
    run("DROP TABLE IF EXISTS moving_changes")
    run("DROP TABLE IF EXISTS moving")


def _one(connection: Connection, statement: str) -> Any:
    return rows_on_driver(connection, statement)[0][0]
