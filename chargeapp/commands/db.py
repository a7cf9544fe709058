"""`chargeapp db`: the tables."""

import json

import click

from chargeapp.commands.opened import closing_runtime


@click.group()
def db() -> None:
    """Bring the database up to date, or look at it."""


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def upgrade(as_json: bool) -> None:
    """Make or change the tables as this version needs them. Safe to repeat, and while others run.

    \b
    Example:
      chargeapp db upgrade
    """
    from chargeapp.config import load_settings
    from chargeapp.storage import schema

    with closing_runtime(load_settings()) as runtime:
        schema.upgrade(runtime.database)
        current = schema.status(runtime.database).current
    as_text = f"The database is up to date ({current})."
    click.echo(json.dumps({"current": current, "upToDate": True}) if as_json else as_text)


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def status(as_json: bool) -> None:
    """Tell which version the tables have; exits with 1 if they are behind.

    \b
    Example:
      chargeapp db status --json
    """
    from chargeapp.config import load_settings
    from chargeapp.storage import schema

    with closing_runtime(load_settings()) as runtime:
        found = schema.status(runtime.database)
    if as_json:
        click.echo(json.dumps({"current": found.current, "newest": found.newest, "upToDate": found.up_to_date}))
    elif found.up_to_date:
        click.echo(f"Up to date ({found.current}).")
    else:
        click.echo(f"Behind: {found.current or 'empty'}, newest is {found.newest}. Run: chargeapp db upgrade")
    if not found.up_to_date:
        raise SystemExit(1)
