"""`chargeapp dead-letters`: what could not be processed."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import QUEUES
from chargeapp.errors import ChargeappError

if TYPE_CHECKING:
    from chargeapp.runtime import Runtime

ALL_OF_THEM = 1_000_000
ROWS_PER_TRANSACTION = 100


class NotReplayedError(ChargeappError):
    """Some rows were not replayed."""


@click.group()
def dead_letters() -> None:
    """List and replay what could not be processed.

    A dead letter is a command or event whose processing failed for good: it is kept, and never blocks the next.

    \b
    Examples:
      chargeapp dead-letters list
      chargeapp dead-letters replay callbacks 17
    """


@dead_letters.command("list")
@click.option("--limit", type=click.IntRange(1, ALL_OF_THEM), default=100, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(limit: int, as_json: bool) -> None:
    """Show dead letters, the latest first.

    \b
    Examples:
      chargeapp dead-letters list
      chargeapp dead-letters list --json | jq -r '.[].error'
    """
    from chargeapp.commands.printing import print_table
    from chargeapp.services.dead_letters import list_dead_letters

    with opened_runtime() as runtime, runtime.database.reading() as session:
        found = list_dead_letters(session, limit)
    if as_json:
        click.echo(json.dumps([asdict(each) | {"dead_at": each.dead_at.isoformat()} for each in found], indent=2))
    elif found:
        rows = [(each.queue, each.row_id, each.dead_at, each.request_id, each.type, each.error) for each in found]
        print_table(("QUEUE", "ROW_ID", "DEAD SINCE", "REQUEST", "TYPE", "ERROR"), rows)
    else:
        click.echo("There are no dead letters.")


@dead_letters.command()
@click.argument("queue", type=click.Choice(QUEUES), required=False)
@click.argument("row_ids", metavar="[ROW_ID]...", type=click.IntRange(1, 2**63 - 1), nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All dead letters, of QUEUE if one is named.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def replay(queue: str | None, row_ids: tuple[int, ...], everything: bool, as_json: bool) -> None:
    """Put dead letters on their way again, once what killed them is mended.

    Safe to repeat: a row that is no dead letter any more is left alone and reported.

    \b
    Examples:
      chargeapp dead-letters replay callbacks 17 18
      chargeapp dead-letters replay callbacks --all
      chargeapp dead-letters replay --all
    """
    if everything == bool(row_ids) or (row_ids and queue is None):
        raise click.UsageError("Name a QUEUE and the ROW_IDs that `chargeapp dead-letters list` shows, or give --all.")
    with opened_runtime() as runtime:
        wanted = [(queue, row_id) for row_id in dict.fromkeys(row_ids)] if queue and row_ids else _all(runtime, queue)
        missing = _replay(runtime, wanted)
    if as_json:
        left = [{"queue": name, "rowId": row_id} for name, row_id in missing]
        click.echo(json.dumps({"replayed": len(wanted) - len(missing), "missing": left}))
    else:
        for name, row_id in missing:
            click.echo(f"{name} {row_id}: no dead letter (any more)", err=True)
        click.echo(f"{len(wanted) - len(missing)} put on their way again.")
    if missing:
        raise NotReplayedError(f"{len(missing)} not replayed. See: chargeapp dead-letters list")


def _all(runtime: "Runtime", queue: str | None) -> list[tuple[str, int]]:
    from chargeapp.services.dead_letters import list_dead_letters

    with runtime.database.reading() as session:
        found = list_dead_letters(session, ALL_OF_THEM)
    return [(each.queue, each.row_id) for each in found if queue in (None, each.queue)]


def _replay(runtime: "Runtime", wanted: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Returns those that are no dead letters."""
    from chargeapp.clock import utcnow
    from chargeapp.commands.printing import progress
    from chargeapp.services import dead_letters as service

    missing: list[tuple[str, int]] = []
    with progress("Replaying", len(wanted)) as advance:
        for start in range(0, len(wanted), ROWS_PER_TRANSACTION):
            batch = wanted[start : start + ROWS_PER_TRANSACTION]
            with runtime.database.writing() as session:
                gone = [each for each in batch if not service.replay(session, *each, utcnow())]
            missing += gone
            for queue in {queue for queue, _ in set(batch) - set(gone)}:
                runtime.wakeups.ring(queue)
            advance(len(batch))
    return missing
