"""`chargeapp migrate-store`: from SQLite to PostgreSQL while everything runs."""

import json
import time
from contextlib import closing
from typing import TYPE_CHECKING

import click

from chargeapp.commands.opened import check_tables, closing_runtime
from chargeapp.commands.printing import print_table, progress

if TYPE_CHECKING:
    from chargeapp.runtime import Runtime
    from chargeapp.storage.database import Database
    from chargeapp.storage.moving.store_move import Switched


@click.command()
@click.option("--to", "url", required=True, metavar="URL", help="A PostgreSQL database: postgresql://…, and empty.")
@click.option("--abandon", is_flag=True, help="Give up a move that was not switched yet.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def migrate_store(url: str, abandon: bool, as_json: bool) -> None:
    """Move the store from SQLite to PostgreSQL while everything runs.

    Copies what is there, then what changed meanwhile, and then switches. Processes that run go on with PostgreSQL by
    themselves; set DATABASE_URL afterwards and restart them when it suits you. Safe to repeat, whenever it was stopped.

    \b
    Example:
      chargeapp migrate-store --to postgresql://chargeapp@db.example/chargeapp
    """
    from chargeapp.config import load_settings
    from chargeapp.storage.database import Database
    from chargeapp.storage.moved import StoreMoved
    from chargeapp.storage.moving import store_move

    settings = load_settings()
    with (
        closing_runtime(settings) as runtime,
        closing(Database(settings.resolved_database_url)) as old,
        closing(Database(url)) as new,
    ):
        _check_kinds(old, new)
        try:
            check_tables(old)
            if abandon:
                store_move.abandon(old)
                click.echo(json.dumps({"state": "abandoned"}) if as_json else "The move is given up. SQLite works on.")
                return
            began_at = time.monotonic()
            switched = _move(runtime, old, new)
        except StoreMoved as moved:
            _check_same(runtime.unseal_address(moved.sealed), new)
            store_move.finish(new)
            click.echo(json.dumps({"state": "moved before"}) if as_json else "The store was moved before.")
            return
    _tell(switched, time.monotonic() - began_at, as_json)
    if switched.before != switched.after:
        raise SystemExit(1)


def _move(runtime: "Runtime", old: "Database", new: "Database") -> "Switched":
    from chargeapp.storage.moving.store_move import StoreMove

    move = StoreMove(old, new)
    with progress("Copying", move.left) as advance:
        for amount in move.copy():
            advance(amount)
    with progress("Catching up", None) as advance:
        for amount in move.catch_up():
            advance(amount)
        move.check()
        for amount in move.catch_up():
            advance(amount)
    return move.switch(runtime.address_vault.seal(new.url.render_as_string(hide_password=False)))


def _check_kinds(old: "Database", new: "Database") -> None:
    from chargeapp.storage.moved import MoveRefused

    if old.path is None:
        raise MoveRefused("DATABASE_URL names PostgreSQL already.")
    if new.path is not None:
        raise MoveRefused("--to has to name a PostgreSQL database.")


def _check_same(url: str, new: "Database") -> None:
    from sqlalchemy import make_url

    from chargeapp.storage.moved import MoveRefused

    if (found := make_url(url))._replace(password=None) != new.url._replace(password=None):
        raise MoveRefused(f"The store was moved before, to {found.render_as_string()}.")


def _tell(switched: "Switched", seconds: float, as_json: bool) -> None:
    pause_millis = round(switched.pause_seconds * 1000)
    if as_json:
        found = {"state": "moved", "before": switched.before, "after": switched.after, "pauseMillis": pause_millis}
        click.echo(json.dumps({**found, "seconds": round(seconds, 1)}))
        return
    print_table(
        ("table", "SQLite", "PostgreSQL"),
        [(name, count, switched.after[name]) for name, count in switched.before.items()],
    )
    click.echo(
        f"Moved in {seconds:.0f} seconds; nothing could be written for {pause_millis} milliseconds."
        " Set DATABASE_URL, and restart the processes when it suits you."
    )
