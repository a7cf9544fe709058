"""One request as commands show it."""

from typing import Any

import click

from chargeapp.commands.printing import print_table, printable
from chargeapp.storage.models import SessionRequest

HEADINGS = ("ID", "STATE", "DECISION", "REASON", "STATION", "DRIVER", "ACCEPTED", "TRIES")


def cells(each: SessionRequest) -> tuple[object, ...]:
    return (
        each.id,
        each.state,
        each.decision,
        each.reason,
        each.station_id,
        each.token_masked,
        each.accepted_at,
        each.callback_attempts,
    )


def print_request(description: dict[str, Any], facts: list[dict[str, Any]]) -> None:
    for name, value in description.items():
        if value is not None:
            click.echo(f"{name:<12} {printable(value)}")
    click.echo()
    print_table(("AT", "EVENT", "DETAILS"), [(fact["at"], fact["type"], _details(fact)) for fact in facts])


def _details(fact: dict[str, Any]) -> str:
    return "  ".join(
        f"{name}={value}" for name, value in fact.items() if name not in ("at", "type") and value is not None
    )
