"""Statements that every request passes through: compiled once, then run on the driver's own cursor.

SQLAlchemy's execution of a compiled statement costs many times what SQLite needs to run it (see the changelog for the
figures). What stays SQLAlchemy's: the statement, its spelling for each database, the types, the connection, the errors.
"""

from collections import namedtuple
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from chargeapp.storage.columns import UtcDateTime

Parameters = Mapping[str, Any]
Convert = Callable[[Any], Any]

CONNECTION = "connection"


class Prepared:
    """A statement whose parameters all have a `bindparam`; a parameter that is a list must be an expanding one."""

    def __init__(self, statement: Any) -> None:
        self._statement = statement
        self._forms: dict[Any, _Form] = {}

    def rows(self, session: Session, parameters: Parameters) -> list[Any]:
        """All rows, as named tuples."""
        return self.rows_on(connection_of(session), parameters)

    def rows_on(self, connection: Connection, parameters: Parameters) -> list[Any]:
        form, parameters = self._form(connection.dialect, parameters)
        values = form.bound(parameters)
        return form.read(_on_cursor(connection, form.sql, lambda cursor: cursor.execute(form.sql, values).fetchall()))

    def change(self, session: Session, parameters: Parameters) -> int:
        """Returns how many rows were changed."""
        connection = connection_of(session)
        form, parameters = self._form(connection.dialect, parameters)
        values = form.bound(parameters)
        return int(_on_cursor(connection, form.sql, lambda cursor: cursor.execute(form.sql, values).rowcount))

    def change_each(self, session: Session, parameters: Collection[Parameters]) -> None:
        """Once for each of `parameters`, which all have the same names and no list."""
        if parameters:
            connection = connection_of(session)
            form, _ = self._form(connection.dialect, next(iter(parameters)))
            rows = [form.bound(each) for each in parameters]
            _on_cursor(connection, form.sql, lambda cursor: cursor.executemany(form.sql, rows))

    def _form(self, dialect: Dialect, parameters: Parameters) -> "tuple[_Form, Parameters]":
        """With lists of 1, 2, 4, 8, ... elements only, so that there are few forms: the last one is repeated."""
        lists = {name: each for name, each in parameters.items() if isinstance(each, list)}
        if lists:
            lists = {name: each + each[-1:] * (_room_for(len(each)) - len(each)) for name, each in lists.items()}
            parameters = {**parameters, **lists}
        key = (dialect.name, *parameters, *map(len, lists.values()))
        form = self._forms.get(key)
        if form is None:
            form = self._forms[key] = _Form(self._statement, dialect, parameters)
        return form, parameters


def _room_for(number: int) -> int:
    return 1 << (number - 1).bit_length() if number else 0


def connection_of(session: Session) -> Connection:
    """Noted when the session begins: asking SQLAlchemy for it each time takes as long as a small statement."""
    # A savepoint is set only when SQLAlchemy is asked.
    noted: Connection | None = None if session.in_nested_transaction() else session.info.get(CONNECTION)
    return session.connection() if noted is None else noted


class _Form:
    """The spelling for one database and certain lengths of lists."""

    def __init__(self, statement: Any, dialect: Dialect, parameters: Parameters) -> None:
        names = list(parameters) if getattr(statement, "is_insert", False) else None
        compiled = statement.compile(dialect=dialect, column_keys=names)
        spelled = compiled.construct_expanded_state(dict(parameters))
        self.sql: str = spelled.statement
        self._positional = compiled.positional
        lists = spelled.parameter_expansion.items()
        elements = {place: (name, at) for name, places in lists for at, place in enumerate(places)}
        self._takes: list[tuple[str, str, int | None, Convert | None]] = []
        self._constants = {name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required}
        for place in spelled.positiontup or spelled.parameters:
            name, at = elements.get(place, (place, None))
            convert = compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect)
            if convert is not None and isinstance(compiled.binds[name].type, UtcDateTime):
                # The same moment is stored many times.
                convert = lru_cache(64)(convert)
            self._takes.append((place, name, at, convert))
        columns = list(statement.exported_columns)
        row: Any = namedtuple("Row", [each.name for each in columns])  # type: ignore[misc]
        self._row: Convert = row._make
        self._converts = [
            (at, convert)
            for at, column in enumerate(columns)
            if (convert := column.type.dialect_impl(dialect).result_processor(dialect, None))
        ]

    def bound(self, parameters: Parameters) -> Any:
        values = []
        for _, name, at, convert in self._takes:
            value = parameters[name] if name in parameters else self._constants[name]
            value = value if at is None else value[at]
            values.append(convert(value) if convert is not None else value)
        if self._positional:
            return values
        return dict(zip((place for place, *_ in self._takes), values, strict=True))

    def read(self, found: Sequence[Sequence[Any]]) -> list[Any]:
        rows = []
        for each in found:
            values = list(each)
            for at, convert in self._converts:
                values[at] = convert(values[at])
            rows.append(self._row(values))
        return rows


def run_on_driver(connection: Connection, sql: str) -> None:
    _on_cursor(connection, sql, lambda cursor: cursor.execute(sql))


def rows_on_driver(connection: Connection, sql: str, parameters: Sequence[object] = ()) -> list[Any]:
    """For a statement that is in the words of one database only."""
    found: list[Any] = _on_cursor(connection, sql, lambda cursor: cursor.execute(sql, parameters).fetchall())
    return found


def _on_cursor(connection: Connection, sql: str, use: Callable[[Any], Any]) -> Any:
    """What `use` makes of a cursor of the driver's; raises what SQLAlchemy would."""
    driver: Any = connection.dialect.loaded_dbapi
    cursor = connection.connection.cursor()
    try:
        return use(cursor)
    except driver.Error as error:
        if connection.dialect.is_disconnect(error, connection.connection.dbapi_connection, cursor):
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, driver.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
    finally:
        cursor.close()
