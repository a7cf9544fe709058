"""Which tables move, and what tells their rows apart. SQLite's own spelling of a row is what travels."""

from dataclasses import dataclass

from sqlalchemy import JSON, Boolean, Column, Table
from sqlalchemy.dialects import postgresql

from chargeapp.storage.columns import UtcDateTime
from chargeapp.storage.models import Base, SessionRequest

# Processes say by themselves, soon, that they work.
NOT_MOVED = frozenset({"heartbeats"})
REQUESTS = SessionRequest.__tablename__
POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]

# A row as the driver of SQLite gives it.
Raw = tuple[object, ...]


@dataclass(frozen=True)
class MovedTable:
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    key_types: tuple[str, ...]
    # How PostgreSQL spells each column as SQLite does.
    alike: tuple[str, ...]
    has_children: bool
    belongs_to_request: bool
    is_numbered: bool

    @property
    def key_places(self) -> tuple[int, ...]:
        return tuple(map(self.columns.index, self.key))


def _moved(table: Table) -> MovedTable:
    keys = list(table.primary_key.columns)
    parents = {foreign.column.table.name for each in Base.metadata.tables.values() for foreign in each.foreign_keys}
    return MovedTable(
        name=table.name,
        columns=tuple(column.name for column in table.columns),
        key=tuple(column.name for column in keys),
        key_types=tuple(str(column.type.compile(POSTGRESQL)) for column in keys),
        alike=tuple(map(_alike, table.columns)),
        has_children=table.name in parents,
        belongs_to_request=any(foreign.column.table.name == REQUESTS for foreign in table.foreign_keys),
        is_numbered=[column.name for column in keys] == ["id"] and keys[0].type.python_type is int,
    )


def _alike(column: Column[object]) -> str:
    name = f'"{column.name}"'
    if isinstance(column.type, UtcDateTime):
        return f"to_char({name}, 'YYYY-MM-DD HH24:MI:SS.US')"
    if isinstance(column.type, Boolean):
        return f"{name}::integer"
    return f"{name}::text" if isinstance(column.type, JSON) else name


# Parents first.
TABLES = tuple(_moved(table) for table in Base.metadata.sorted_tables if table.name not in NOT_MOVED)
