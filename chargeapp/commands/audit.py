"""`chargeapp audit`: what was decided, for those who have to check it."""

import json
from datetime import datetime

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import Moment

STANDARD_OUTPUT = "-"


@click.group()
def audit() -> None:
    """Hand out every decision that is kept, without driver tokens.

    \b
    Example:
      chargeapp audit export --since 2026-01-01 --until 2026-02-01 --output january.csv
    """


@audit.command()
@click.option("--since", type=Moment(), help="Only requests accepted at this time or later. UTC if it has no offset.")
@click.option("--until", type=Moment(), help="Only requests accepted before this time. Default: now.")
@click.option("--format", "format_", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--output", metavar="FILE", default=STANDARD_OUTPUT, help="Where to; `-`, the default: standard output.")
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option("--json", "as_json", is_flag=True, help="With FILE: print what was exported as JSON.")
def export(
    *, since: datetime | None, until: datetime | None, format_: str, output: str, force: bool, as_json: bool
) -> None:
    """Write every decision, with source and reason, times, attempts and the state of its request: oldest first.

    Drivers are named by a pseudonym: the same for all rows of one driver, of no use to anybody without
    DRIVER_TOKEN_HASH_KEY. What retention removed is not there any more; see docs/audit.md.

    Works while everything runs, and holds up nobody. FILE appears when it is complete. Requests that nobody has decided
    yet are left out, and counted on standard error.

    \b
    Examples:
      chargeapp audit export --since 2026-01-01 --until 2026-02-01 --output january.csv
      chargeapp audit export --format jsonl | jq -r 'select(.decision == "unknown") | .reason' | sort | uniq -c
    """
    if as_json and output == STANDARD_OUTPUT:
        raise click.UsageError("--json goes with --output FILE.")
    from chargeapp.clock import utcnow
    from chargeapp.commands.audit_file import export_decisions
    from chargeapp.services.audit import Period

    period = Period(since, min(until or utcnow(), utcnow()))
    if since is not None and since >= period.until:
        raise click.UsageError("--since must be earlier than --until, and than now.")
    with opened_runtime() as runtime:
        decisions, undecided = export_decisions(runtime, period, format_, output, force=force)
    if as_json:
        click.echo(json.dumps({"file": output, "decisions": decisions, "undecided": undecided}))
        return
    left_out = f" {undecided:,} requests were not decided yet, and are left out." if undecided else ""
    click.echo(f"Exported {decisions:,} decisions.{left_out}", err=True)
