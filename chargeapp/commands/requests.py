"""`chargeapp requests`: what was asked, what comes of it, and sending callbacks again."""

import json
from datetime import datetime
from typing import TYPE_CHECKING

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import Moment, StationId
from chargeapp.commands.request_tail import tail
from chargeapp.domain.charging_session import State
from chargeapp.errors import ChargeappError

if TYPE_CHECKING:
    from chargeapp.storage.models import SessionRequest

STATES = [state.value for state in State]
ENDED = [state.value for state in State if state.terminal]

station = click.option("--station", type=StationId(), help="Only of this station.")


class NoSuchRequestError(ChargeappError):
    """There is no such request."""


class NotSentAgainError(ChargeappError):
    """Some callbacks were not sent again."""


@click.group()
def requests() -> None:
    """List, show and follow requests, and send their callbacks again.

    \b
    Examples:
      chargeapp requests list --state failed
      chargeapp requests tail
      chargeapp requests show req-0199c0ffee00a1b2c3d4e5f60718293a
      chargeapp requests redeliver --state failed --since 2026-01-31 --dry-run
    """


@requests.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only in this state.")
@station
@click.option("--before", metavar="ID", help="Only older than this request: the next page.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(state: str | None, station: str | None, before: str | None, limit: int, as_json: bool) -> None:
    """Show requests, the newest first.

    \b
    Examples:
      chargeapp requests list
      chargeapp requests list --state failed --station 123e4567-e89b-12d3-a456-426614174000
      chargeapp requests list --json --limit 1000 | jq -r '.[].requestId'
    """
    from chargeapp.commands.printing import print_table
    from chargeapp.commands.request_details import HEADINGS, cells
    from chargeapp.reports import summary
    from chargeapp.request_search import Search, find_requests

    search = Search(state=state, station=station)
    found: list[SessionRequest] = []
    with opened_runtime() as runtime:
        # A rare state of a busy station takes several looks.
        while True:
            with runtime.database.reading() as session:
                page = find_requests(session, search, before, limit - len(found))
            found, before = found + page.requests, page.older
            if before is None or len(found) == limit:
                break
    if as_json:
        click.echo(json.dumps([summary(each) for each in found], indent=2))
    elif found:
        print_table(HEADINGS, [cells(each) for each in found])
        if before is not None:
            click.echo(f"Older ones: add --before {before}", err=True)
    else:
        click.echo("There are no such requests.")


@requests.command()
@click.argument("request_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON, like the API.")
def show(request_id: str, as_json: bool) -> None:
    """Show one request and its timeline. The driver token stays masked.

    \b
    Examples:
      chargeapp requests show req-0199c0ffee00a1b2c3d4e5f60718293a
      chargeapp requests show req-0199c0ffee00a1b2c3d4e5f60718293a --json | jq .timeline
    """
    from chargeapp.commands.request_details import print_request
    from chargeapp.reports import summary, timeline
    from chargeapp.storage.models import SessionRequest

    with opened_runtime() as runtime, runtime.database.reading() as session:
        found = session.get(SessionRequest, request_id)
        if found is None:
            raise NoSuchRequestError("There is no request with this id. See: chargeapp requests list")
        facts = timeline(session, request_id)
    if as_json:
        click.echo(json.dumps(summary(found) | {"timeline": facts}, indent=2))
    else:
        print_request(summary(found), facts)


@requests.command()
@click.argument("request_ids", metavar="[ID]...", nargs=-1)
@click.option("--state", type=click.Choice(ENDED), help="Instead of IDs: all that ended like this.")
@station
@click.option("--since", type=Moment(), help="Only if accepted at this time or later. UTC if it has no offset.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be sent again.")
@click.option("--yes", is_flag=True, help="Really send all of them; needed with --state.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def redeliver(
    *,
    request_ids: tuple[str, ...],
    state: str | None,
    station: str | None,
    since: datetime | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Send the callbacks of ended requests again: of those named, or of all in one state.

    Each gets REQUEST_TTL_SECONDS more. Refused are requests whose callback is still on its way, and those whose
    driver token was erased; the command then ends with status 1.

    \b
    Examples:
      chargeapp requests redeliver req-0199c0ffee00a1b2c3d4e5f60718293a
      chargeapp requests redeliver --state failed --since 2026-01-31T08:00:00+01:00 --dry-run
      chargeapp requests redeliver --state failed --station 123e4567-e89b-12d3-a456-426614174000 --yes
    """
    if bool(request_ids) == bool(state):
        raise click.UsageError("Name the requests, or give --state.")
    if request_ids and (station or since):
        raise click.UsageError("--station and --since go with --state.")
    if state and dry_run == yes:
        raise click.UsageError("Give --dry-run to see how many there are, then --yes to send them.")
    from chargeapp.commands.request_redelivery import redeliver_matching, redeliver_named
    from chargeapp.request_search import Search

    with opened_runtime() as runtime:
        if state:
            search = Search(state=state, station=station, since=since)
            counts = redeliver_matching(runtime, search, dry_run=dry_run)
        else:
            counts = redeliver_named(runtime, list(dict.fromkeys(request_ids)), dry_run=dry_run)
    sent = counts.pop(None, 0)
    if as_json:
        click.echo(json.dumps({"sent": sent, "refused": counts, "dryRun": dry_run}))
    else:
        for reason, count in counts.items():
            click.echo(f"{count:,} refused: {reason}", err=True)
        click.echo(f"{sent:,} {'would be ' if dry_run else ''}sent again.")
    if counts and not dry_run:
        raise NotSentAgainError(f"{counts.total():,} were not sent again.")


requests.add_command(tail)
