"""A long history by SQL: finished requests, multiplied with all their rows, as if they had come over the last hours."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pysqlite3 import dbapi2 as sqlite

from chargeapp.clock import utcnow
from chargeapp.domain.charging_session import new_request_id

# Less than a day: the driver tokens of older requests would fall due to be erased in the middle of a measurement.
SPREAD = timedelta(hours=20)
AT_ONCE = 20_000
# Other drivers at a thousand stations, each request with a key of its own.
DIFFERENT = {
    "token_hash": "lower(hex(randomblob(32)))",
    "station_id": "printf('123e4567-e89b-12d3-a456-%012d', copies.seconds % 1000)",
    "key": "copies.id",
}
REQUESTS = "charging_session_requests"
SHIFTED = "strftime('%Y-%m-%d %H:%M:%f', {column}, '-' || copies.seconds || ' seconds') || '000'"
TALLIES = """
    WITH RECURSIVE ago (minutes) AS (SELECT 1 UNION ALL SELECT minutes + 1 FROM ago WHERE minutes < ?)
    INSERT OR IGNORE INTO tallies (name, minute, count, millis)
    SELECT name, strftime('%Y-%m-%d %H:%M:00.000000', minute, '-' || minutes || ' minutes'), count, millis
    FROM tallies, ago
"""


def multiply(database: Path, count: int, show: Callable[[int], None]) -> None:
    """Until there are about `count` more requests; nothing may have the database open."""
    connection = sqlite.connect(database, isolation_level=None)
    try:
        # If this is interrupted, the database is thrown away.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=MEMORY", "cache_size=-200000"):
            connection.execute(f"PRAGMA {pragma}")
        indexes = connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            connection.execute(f"DROP INDEX {name}")
        _copy_all(connection, count, show)
        for _, statement in indexes:
            connection.execute(statement)
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


def _copy_all(connection: Any, count: int, show: Callable[[int], None]) -> None:
    sources = [id_ for (id_,) in connection.execute(f"SELECT id FROM {REQUESTS}")]  # noqa: S608 - our words
    tables = {name: columns for name in _tables(connection) if "request_id" in (columns := _columns(connection, name))}
    connection.execute("CREATE TEMP TABLE copies (source TEXT, id TEXT, seconds INTEGER)")
    for name, key in [(REQUESTS, "id"), *((name, "request_id") for name in tables)]:
        connection.execute(f"CREATE TEMP TABLE some_{name} AS SELECT * FROM main.{name}")  # noqa: S608
        connection.execute(f"CREATE INDEX temp.key_{name} ON some_{name} ({key})")
    now = utcnow()
    for done in range(0, count, AT_ONCE):
        numbers = range(done, min(done + AT_ONCE, count))
        # The oldest first, as they came.
        ages = [SPREAD * (count - number) / count for number in numbers]
        connection.execute("BEGIN")
        connection.execute("DELETE FROM copies")
        connection.executemany(
            "INSERT INTO copies VALUES (?, ?, ?)",
            [
                (sources[number % len(sources)], new_request_id(now - age), int(age.total_seconds()))
                for number, age in zip(numbers, ages, strict=True)
            ],
        )
        _copy(connection, REQUESTS, _columns(connection, REQUESTS), "id")
        for name, columns in tables.items():
            _copy(connection, name, columns, "request_id")
        connection.execute("COMMIT")
        show(numbers[-1] + 1)
    connection.execute(TALLIES, (int(SPREAD.total_seconds() / 60),))


def _tables(connection: Any) -> list[str]:
    return [name for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]


def _columns(connection: Any, table: str) -> dict[str, str]:
    """Types by name."""
    return {row[1]: row[2] for row in connection.execute(f"PRAGMA main.table_info({table})")}


def _copy(connection: Any, table: str, columns: dict[str, str], key: str) -> None:
    # Numbered ones number themselves.
    columns = {name: type_ for name, type_ in columns.items() if (name, type_) != ("id", "INTEGER")}
    values = []
    for name, type_ in columns.items():
        column = f"some.{name}"
        if name == key:
            values.append("copies.id")
        elif name in DIFFERENT:
            values.append(DIFFERENT[name])
        elif type_ == "JSON":
            values.append(f"replace({column}, copies.source, copies.id)")
        elif type_ == "DATETIME":
            values.append(SHIFTED.format(column=column))
        else:
            values.append(column)
    connection.execute(
        f"INSERT INTO main.{table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608 - our words
        f" FROM copies CROSS JOIN some_{table} some ON some.{key} = copies.source"
    )
