"""An access list as CSV, read line by line: a file of any length needs the memory of one line.

Nothing that stands in the file is repeated in a message: a misplaced driver token would end up on a screen.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from chargeapp.commands.parameters import parse_moment
from chargeapp.domain.identifiers import DRIVER_TOKEN_MAX_LENGTH, canonical_station_id, is_driver_token
from chargeapp.errors import ChargeappError

COLUMNS = ("driver_token", "station_id", "blocked", "valid_from", "valid_until")
ANY = "*"
T = TypeVar("T")
WORDS = {"": False, "false": False, "no": False, "0": False, "true": True, "yes": True, "1": True}


class BadHeaderError(ChargeappError):
    """The first line does not name the columns."""


class BadLineError(ValueError):
    """Says what to change in the line."""


@dataclass(frozen=True)
class Row:
    driver_token: str
    station_id: str
    blocked: bool
    valid_from: datetime | None
    valid_until: datetime | None


@dataclass(frozen=True)
class Line:
    """One line of the file, with either what it says or what is wrong with it; `size` is its bytes."""

    number: int
    size: int
    row: Row | None = None
    error: str | None = None


def read_lines(file: Iterable[bytes], token_min_length: int) -> Iterator[Line]:
    """Every line but the first, which must name the columns, and empty ones; raises BadHeaderError."""
    numbered = enumerate(file, 1)
    columns = _header(next(numbered, (1, b""))[1])
    for number, raw in numbered:
        try:
            # Each line by itself, so that a forgotten quote cannot swallow those that follow.
            cells = _cells(raw)
            if cells:
                yield Line(number, len(raw), row=_row(columns, cells, token_min_length))
        except BadLineError as error:
            yield Line(number, len(raw), error=str(error))


def checked_token(token: str, min_length: int) -> str:
    """Raises BadLineError."""
    if token != ANY and not is_driver_token(token, min_length):
        raise BadLineError(
            f"driver_token must be {min_length} to {DRIVER_TOKEN_MAX_LENGTH} characters out of A-Z a-z 0-9 - . _ ~,"
            f" or {ANY} for every driver"
        )
    return token


def check_window(valid_from: datetime | None, valid_until: datetime | None) -> None:
    """Raises BadLineError."""
    if valid_from is not None and valid_until is not None and valid_from >= valid_until:
        raise BadLineError("valid_until must be later than valid_from")


def _header(raw: bytes) -> list[str]:
    hint = f"must name the columns, with commas between them: {','.join(COLUMNS)} (only driver_token is required)"
    try:
        columns = [cell.lower() for cell in _cells(raw.removeprefix(b"\xef\xbb\xbf"))]
    except BadLineError as error:
        raise BadHeaderError(f"line 1: {error}") from error
    if "driver_token" not in columns or not set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        raise BadHeaderError(f"line 1: {hint}")
    return columns


def _cells(raw: bytes) -> list[str]:
    try:
        rows = list(csv.reader([raw.decode().rstrip("\r\n")], strict=True))
    except UnicodeDecodeError as error:
        raise BadLineError("not UTF-8. Save the file as UTF-8") from error
    except csv.Error as error:
        raise BadLineError("not CSV. Close every quote, and write no line breaks inside a value") from error
    return [cell.strip() for cell in rows[0]] if rows else []


def _row(columns: list[str], cells: list[str], token_min_length: int) -> Row:
    # A missing value must not read as its default: `blocked` would become false.
    if len(cells) != len(columns):
        raise BadLineError(f"{len(cells)} values, but line 1 names {len(columns)} columns. Write one for each")
    values: Mapping[str, str] = dict(zip(columns, cells, strict=True))
    row = Row(
        driver_token=checked_token(values["driver_token"], token_min_length),
        station_id=_value(values, "station_id", _station_id, f"a UUID, or {ANY} or nothing for every station"),
        blocked=_value(values, "blocked", lambda text: WORDS[text.lower()], "true or false, or nothing for false"),
        valid_from=_value(values, "valid_from", _moment, "a date or time such as 2026-01-31T08:00:00Z, or nothing"),
        valid_until=_value(values, "valid_until", _moment, "a date or time such as 2026-01-31T08:00:00Z, or nothing"),
    )
    check_window(row.valid_from, row.valid_until)
    return row


def _value(values: Mapping[str, str], column: str, read: Callable[[str], T], expected: str) -> T:
    try:
        return read(values.get(column, ""))
    except (ValueError, KeyError) as error:
        raise BadLineError(f"{column} must be {expected}") from error


def _station_id(text: str) -> str:
    return ANY if text in ("", ANY) else canonical_station_id(text)


def _moment(text: str) -> datetime | None:
    return parse_moment(text) if text else None
