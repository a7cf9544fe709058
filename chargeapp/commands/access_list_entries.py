"""Entries of the access list as commands take and show them."""

import sys
from collections.abc import Iterator
from typing import Any

import click

from chargeapp.commands.access_list_file import ANY, BadLineError, Row, checked_token
from chargeapp.commands.printing import short_time
from chargeapp.errors import ChargeappError
from chargeapp.security.driver_tokens import TokenVault, mask
from chargeapp.services.access_list import Entry, list_entries
from chargeapp.storage.database import Database
from chargeapp.storage.models import AccessListEntry

ENTRIES_PER_PAGE = 1_000
LINE = "{:<11}  {:<36}  {:<7}  {:<20}  {}"


class BadTokenError(ChargeappError):
    """This is not a driver token."""


def given_token(argument: str, min_length: int) -> str:
    """The argument, or for `-` a line of standard input, which a terminal does not show; raises BadTokenError."""
    if argument == "-":
        if sys.stdin.isatty():
            argument = click.prompt("Driver token", hide_input=True, err=True)
        else:
            argument = sys.stdin.readline()
    try:
        return checked_token(argument.strip(), min_length)
    except BadLineError as error:
        raise BadTokenError(f"{error}.") from error


def hash_and_mask(vault: TokenVault, token: str) -> tuple[str, str]:
    return (ANY, ANY) if token == ANY else (vault.hash(token), mask(token))


def entry_of(vault: TokenVault, row: Row) -> Entry:
    token_hash, masked = hash_and_mask(vault, row.driver_token)
    return Entry(token_hash, masked, row.station_id, row.blocked, row.valid_from, row.valid_until)


def pages_of_entries(database: Database) -> Iterator[list[AccessListEntry]]:
    """Each in a transaction of its own: a reader that stays for long keeps the log from shrinking."""
    after = None
    while True:
        with database.reading() as session:
            page = list_entries(session, ENTRIES_PER_PAGE, after)
        if page:
            yield page
        if len(page) < ENTRIES_PER_PAGE:
            return
        after = (page[-1].token_hash, page[-1].station_id)


def heading() -> str:
    return LINE.format("DRIVER", "STATION", "BLOCKED", "FROM", "UNTIL")


def as_columns(entry: AccessListEntry) -> str:
    return LINE.format(
        entry.token_masked,
        entry.station_id,
        "blocked" if entry.blocked else "",
        short_time(entry.valid_from),
        short_time(entry.valid_until),
    ).rstrip()


def described(entry: AccessListEntry) -> dict[str, Any]:
    return {
        "driverToken": entry.token_masked,
        "stationId": entry.station_id,
        "blocked": entry.blocked,
        "validFrom": entry.valid_from.isoformat() if entry.valid_from else None,
        "validUntil": entry.valid_until.isoformat() if entry.valid_until else None,
        "createdAt": entry.created_at.isoformat(),
    }
