"""`chargeapp backup`, `restore` and `purge`: keeping the database well."""

import json
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chargeapp.clock import utcnow
from chargeapp.commands.opened import closing_runtime, opened_runtime
from chargeapp.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from chargeapp.storage.database import Database

RECENTLY = timedelta(seconds=30)


@click.command()
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def backup(target: Path, as_json: bool) -> None:
    """Write a checked copy of the database to TARGET, while everything runs.

    The secrets are not in it: keep secrets.json, or the settings that replace it, elsewhere. Without them the driver
    tokens in a backup cannot be read.

    \b
    Example:
      chargeapp backup /backups/chargeapp-$(date +%F).db
    """
    from chargeapp.storage import backups

    with opened_runtime() as runtime:
        counts = backups.back_up(runtime.database, target.absolute())
    click.echo(
        json.dumps({"file": str(target), "rows": counts}) if as_json else f"{target}: {_in_words(counts)}, checked."
    )


@click.command()
@click.argument("source", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def restore(source: Path, yes: bool, as_json: bool) -> None:
    """Put the backup SOURCE in place of the database. Stop all processes first.

    The present database is kept beside it. Requests that were under way when the backup was made are taken up again,
    so callers may see callbacks a second time, with the same webhook-id.

    \b
    Example:
      chargeapp restore /backups/chargeapp-2026-11-22.db
    """
    from chargeapp.config import load_settings
    from chargeapp.storage import backups

    with closing_runtime(load_settings()) as runtime:
        in_use = runtime.database.exists() and still_in_use(runtime.database)
        # Only now it is known whether the store has moved to a server meanwhile.
        path = backups.file_of(runtime.database)
    if in_use:
        raise backups.BackupRefused(
            "Processes still work with this database, or did in the last 30 seconds. Stop them first."
        )
    if not yes:
        click.confirm(f"Replace {path}?", abort=True, err=as_json)
    aside, counts = backups.restore(source, path, utcnow())
    if as_json:
        click.echo(json.dumps({"rows": counts, "databaseBefore": str(aside) if aside else None}))
    else:
        click.echo(f"Restored {_in_words(counts)}." + (f" The database before is {aside}." if aside else ""))


@click.command()
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def purge(dry_run: bool, as_json: bool) -> None:
    """Forget what RETENTION_DAYS and DRIVER_TOKEN_RETENTION_HOURS say. The relay does this too, bit by bit.

    \b
    Examples:
      chargeapp purge --dry-run
      chargeapp purge
    """
    from rich.console import Console
    from rich.progress import Progress

    from chargeapp.services.retention import Forgotten, count_purgeable, forget, sum_up_old_minutes

    with opened_runtime() as runtime:
        now = utcnow()
        with runtime.database.reading() as session:
            expected = count_purgeable(session, runtime.retention, now)
        if dry_run:
            click.echo(json.dumps({"requests": expected}) if as_json else f"{expected} requests would be removed.")
            return
        total = Forgotten()
        with Progress(console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task("Forgetting", total=expected)
            while True:
                with runtime.database.writing() as session:
                    bite = forget(session, runtime.retention, now)
                    if not bite and not sum_up_old_minutes(session, now):
                        break
                total += bite
                progress.update(bar, completed=total.requests)
    if as_json:
        click.echo(json.dumps(asdict(total)))
    else:
        click.echo(
            f"Removed {total.requests} requests and {total.idempotency_keys} idempotency keys,"
            f" erased {total.driver_tokens} driver tokens."
        )


def still_in_use(database: "Database") -> bool:
    """Whether any process said lately that it works; a database too damaged to tell is in nobody's use."""
    from chargeapp.storage import heartbeats

    try:
        with database.reading() as session:
            return bool(heartbeats.since(session, "", utcnow() - RECENTLY))
    except DatabaseUnavailable:
        return False


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {table}" for table, count in counts.items())
