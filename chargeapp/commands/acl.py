"""`chargeapp acl`: the built-in access list."""

import json
from datetime import datetime
from typing import BinaryIO

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import Moment, StationId
from chargeapp.errors import ChargeappError

ANY = "*"


class NoSuchEntryError(ChargeappError):
    """The access list has no such entry."""


@click.group()
def acl() -> None:
    """Manage the built-in access list.

    An entry says that a driver may charge at a station; * stands for every driver or every station. A blocked entry
    always wins; else the most particular one decides. Who is not listed may not charge. The list is not asked while
    AUTHORIZATION_SERVICE_URL is set.

    \b
    Examples:
      chargeapp acl add - --station 123e4567-e89b-12d3-a456-426614174000     then type the token
      chargeapp acl import drivers.csv
      chargeapp acl list
    """


station = click.option(
    "--station", type=StationId(or_any=True), default=ANY, show_default=True, help="Station, or * for every one."
)


@acl.command()
@click.argument("token")
@station
@click.option("--from", "valid_from", type=Moment(), help="Valid from this time on. UTC if it has no offset.")
@click.option("--until", "valid_until", type=Moment(), help="Not valid any more at this time.")
@click.option("--blocked", is_flag=True, help="The driver must not charge, whatever other entries say.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def add(
    *,
    token: str,
    station: str,
    valid_from: datetime | None,
    valid_until: datetime | None,
    blocked: bool,
    as_json: bool,
) -> None:
    """Allow, or block, a driver TOKEN; an entry for the same driver and station is replaced.

    TOKEN `-` reads the token from standard input, and * stands for every driver. Prefer `-`: what is written on a
    command line can be seen by every user of the machine, and stays in the shell's history.

    \b
    Examples:
      chargeapp acl add -                                        asks for the token
      chargeapp acl add - --until 2026-12-31T23:00:00Z < token.txt
      chargeapp acl add - --blocked < lost-card.txt
      chargeapp acl add '*' --station 123e4567-e89b-12d3-a456-426614174000
    """
    from chargeapp.clock import wall_clock
    from chargeapp.commands.access_list_entries import entry_of, given_token
    from chargeapp.commands.access_list_file import Row
    from chargeapp.services.access_list import put_entries

    if valid_from is not None and valid_until is not None and valid_from >= valid_until:
        raise click.UsageError("--until must be later than --from.")
    with opened_runtime() as runtime:
        token = given_token(token, runtime.settings.driver_token_min_length)
        entry = entry_of(runtime.vault, Row(token, station, blocked, valid_from, valid_until))
        with runtime.database.writing() as session:
            put_entries(session, [entry], wall_clock())
    if as_json:
        click.echo(json.dumps({"driverToken": entry.token_masked, "stationId": station, "blocked": blocked}))
    else:
        click.echo(f"{'Blocked' if blocked else 'Allowed'}: driver {entry.token_masked} at station {station}.")


@acl.command()
@click.argument("token")
@station
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def remove(token: str, station: str, as_json: bool) -> None:
    """Remove the entry of a driver TOKEN (`-`: from standard input) at exactly this station, or at *.

    \b
    Examples:
      chargeapp acl remove -
      chargeapp acl remove - --station 123e4567-e89b-12d3-a456-426614174000 < token.txt
    """
    from chargeapp.commands.access_list_entries import given_token, hash_and_mask
    from chargeapp.services.access_list import remove_entry

    with opened_runtime() as runtime:
        token = given_token(token, runtime.settings.driver_token_min_length)
        token_hash, masked = hash_and_mask(runtime.vault, token)
        with runtime.database.writing() as session:
            removed = remove_entry(session, token_hash, station)
    if not removed:
        raise NoSuchEntryError(f"There is no entry for driver {masked} at station {station}. See: chargeapp acl list")
    as_text = f"Removed: driver {masked} at station {station}."
    click.echo(json.dumps({"driverToken": masked, "stationId": station, "removed": True}) if as_json else as_text)


@acl.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as a JSON array, one entry a line.")
def list_(as_json: bool) -> None:
    """Show all entries, with masked tokens. Lists of any length are printed as they are read.

    \b
    Examples:
      chargeapp acl list | less
      chargeapp acl list --json | jq '.[] | select(.blocked)'
    """
    from chargeapp.commands.access_list_entries import as_columns, described, heading, pages_of_entries

    with opened_runtime() as runtime:
        if as_json:
            before = "["
            for page in pages_of_entries(runtime.database):
                click.echo(before + ",".join(f"\n{json.dumps(described(entry))}" for entry in page), nl=False)
                before = ","
            click.echo("[]" if before == "[" else "\n]")
        else:
            click.echo(heading())
            for page in pages_of_entries(runtime.database):
                click.echo("\n".join(as_columns(entry) for entry in page))


@acl.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--skip-bad", is_flag=True, help="Import the good lines, report the bad ones, and succeed.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def import_(file: BinaryIO, skip_bad: bool, as_json: bool) -> None:
    """Add the entries of a CSV FILE (`-`: standard input) to the list; the same driver and station is replaced.

    The first line names the columns: driver_token,station_id,blocked,valid_from,valid_until. Only driver_token is
    required; no station means every station. All lines are checked before anything is stored; each bad one is
    reported. Of two lines for the same driver and station the last one counts. Safe to repeat.

    \b
    Examples:
      chargeapp acl import drivers.csv
      export-drivers | chargeapp acl import --skip-bad -
    """
    from chargeapp.commands.access_list_import import import_file

    with opened_runtime() as runtime:
        stored, skipped = import_file(runtime, file, skip_bad=skip_bad)
    as_text = f"Imported {stored:,} entries.{f' Skipped {skipped:,} bad lines.' if skipped else ''}"
    click.echo(json.dumps({"imported": stored, "skipped": skipped}) if as_json else as_text)
