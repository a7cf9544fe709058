"""`chargeapp requests tail`."""

import json
from typing import TYPE_CHECKING, Any

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import StationId
from chargeapp.domain.charging_session import State

if TYPE_CHECKING:
    from sqlalchemy import Row


@click.command()
@click.option("--station", type=StationId(), help="Only of this station.")
@click.option(
    "--state",
    type=click.Choice([state.value for state in State]),
    help="Only of requests that are in this state when the event is read.",
)
@click.option(
    "--lines", type=click.IntRange(0, 10_000), default=10, show_default=True, help="Begin with so many past events."
)
@click.option(
    "--interval", type=click.FloatRange(0.1, 60), default=0.5, show_default=True, help="Seconds between two looks."
)
@click.option("--no-follow", is_flag=True, help="Show the past events and end.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON.")
def tail(
    *, station: str | None, state: str | None, lines: int, interval: float, no_follow: bool, as_json: bool
) -> None:
    """Follow new requests and everything that happens to them, a line for each event, until Ctrl-C.

    A line has the time in UTC, the request, its station, the event and its details. Each look reads the newest events
    by their key, so it costs next to nothing however many requests are stored. Filters pick from what was read.

    \b
    Examples:
      chargeapp requests tail
      chargeapp requests tail --station 123e4567-e89b-12d3-a456-426614174000
      chargeapp requests tail --state failed --json | jq -r .requestId
      chargeapp requests tail --lines 100 --no-follow
    """
    from chargeapp.commands.followed_events import Tail, as_line, described, follow

    with opened_runtime() as runtime:
        found = Tail(runtime.database, station=station, state=state)
        found.begin(lines)

        def show(each: "Row[Any]") -> None:
            click.echo(json.dumps(described(each)) if as_json else as_line(each))

        if no_follow:
            for each in found.look():
                show(each)
        else:
            follow(found, interval, show)
