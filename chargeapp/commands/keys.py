"""`chargeapp keys`: who may call the API."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import Duration, Moment
from chargeapp.errors import ChargeappError

if TYPE_CHECKING:
    from chargeapp.storage.models import ApiKey

# Spelled out here, so that --help need not import what a scope is; a test compares.
SCOPES = ("submit", "read", "operate", "admin")
NAME_LENGTH = 80
HEADINGS = ("ID", "NAME", "CALLER", "SCOPES", "CALLBACK HOSTS", "STATE", "CREATED", "EXPIRES", "REVOKED")


class NoSuchKeyError(ChargeappError):
    """There is no such key."""


class Name(click.ParamType[str]):
    """A few printable words."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = " ".join(value.split(" ")).strip()
        if not text or len(text) > NAME_LENGTH or not text.isprintable():
            self.fail(f"must have 1 to {NAME_LENGTH} printable characters", param, ctx)
        return text


class Expiry(click.ParamType[datetime]):
    """A duration from now on, or a moment; in the future."""

    name = "duration or iso"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        from chargeapp.clock import wall_clock

        now = wall_clock()
        try:
            moment = now + Duration().convert(value, param, ctx)
        except click.BadParameter:
            moment = Moment().convert(value, param, ctx)
        except OverflowError:
            self.fail("is too far away", param, ctx)
        if moment <= now:
            self.fail("must lie in the future", param, ctx)
        return moment


class HostPattern(click.ParamType[str]):
    """A host name, `*.` and a host name, or an address."""

    name = "host"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from chargeapp.security.api_keys import HostPatternRefused, host_pattern

        try:
            return host_pattern(value)
        except HostPatternRefused as refusal:
            self.fail(str(refusal), param, ctx)


@click.group()
def keys() -> None:
    """Make, list and revoke the API keys of callers.

    A key belongs to a caller, who sees only its own requests. It has scopes: `submit` posts requests and has their
    callbacks sent again, `read` looks at them, `operate` sees those of all callers, the metrics and the console.
    `admin` is `operate`, and changes keys, webhook secrets and the access list in the console.

    As long as no key was ever made, the API is open, but only in development and on a loopback address. With the first
    key it is closed to everybody who brings none, and stays so.

    \b
    Examples:
      chargeapp keys create --name 'roaming hub'
      chargeapp keys list
      chargeapp keys revoke 3f9a01c2b7d4
    """


@keys.command()
@click.option("--name", type=Name(), required=True, help="What the key is for; you see it in lists.")
@click.option("--caller", type=Name(), help="Whom it belongs to. A caller may have several keys. Default: the name.")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=("submit", "read"),
    show_default=True,
    help="What it is good for; may be repeated.",
)
@click.option(
    "--expires-in", "expires_at", type=Expiry(), help="90d, 12h, or a date such as 2027-01-31. Default: never."
)
@click.option(
    "--callback-host",
    "hosts",
    type=HostPattern(),
    multiple=True,
    help="Callbacks may go there only: a host, or *.example.com for every host below it; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def create(
    *,
    name: str,
    caller: str | None,
    scopes: tuple[str, ...],
    expires_at: datetime | None,
    hosts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a key and print it. It is shown only now: only its hash is kept.

    Callers send it in a header, `Authorization: Bearer cak_…`. To replace one without a gap, make another for the same
    caller, change over, and revoke the old one.

    \b
    Examples:
      chargeapp keys create --name 'roaming hub'
      chargeapp keys create --name 'hub, second key' --caller 'roaming hub' --expires-in 90d
      chargeapp keys create --name hub --callback-host hooks.example.com --callback-host '*.hub.example.com'
      chargeapp keys create --name prometheus --scope operate > /etc/prometheus/chargeapp.key
    """
    from chargeapp.clock import wall_clock
    from chargeapp.commands.printing import short_time
    from chargeapp.security.api_keys import Scope
    from chargeapp.services.api_keys import NewKey, create_key

    new = NewKey(name, caller or name, [Scope(each) for each in scopes], expires_at, hosts)
    with opened_runtime() as runtime, runtime.database.writing() as session:
        key = create_key(session, new, wall_clock())
    if as_json:
        made = {"key": key, "name": new.name, "caller": new.caller, "scopes": list(dict.fromkeys(scopes))}
        click.echo(json.dumps(made | {"expiresAt": expires_at.isoformat() if expires_at else None}))
        return
    click.echo(key)
    until = f"until {short_time(expires_at)}" if expires_at else "until it is revoked"
    click.echo(
        f"This key of {new.caller} is good for {' and '.join(dict.fromkeys(scopes))}, {until}. Keep it: it is not shown"
        " again.",
        err=True,
    )


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """Show all keys, the oldest first, also those that expired or were revoked. Nobody can see the keys themselves.

    \b
    Examples:
      chargeapp keys list
      chargeapp keys list --json | jq -r '.[] | select(.state == "usable") | .id'
    """
    from chargeapp.commands.printing import print_table
    from chargeapp.services.api_keys import list_keys

    with opened_runtime() as runtime, runtime.database.reading() as session:
        found = [described(each) for each in list_keys(session)]
    if as_json:
        click.echo(json.dumps(found, indent=2, default=datetime.isoformat))
    elif found:
        print_table(
            HEADINGS, [[", ".join(cell) if isinstance(cell, list) else cell for cell in row.values()] for row in found]
        )
    else:
        click.echo("There are no keys yet. Make one: chargeapp keys create --name NAME")


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def revoke(key_id: str, as_json: bool) -> None:
    """Revoke the key with this ID. From the next request on nobody gets in with it; it cannot be undone.

    The ID is the middle part of the key, and the first column of the list.

    \b
    Examples:
      chargeapp keys revoke 3f9a01c2b7d4
      chargeapp keys list --json | jq -r '.[] | select(.caller == "hub") | .id' | xargs -n 1 chargeapp keys revoke
    """
    from chargeapp.clock import wall_clock
    from chargeapp.commands.printing import short_time
    from chargeapp.services.api_keys import revoke_key

    with opened_runtime() as runtime, runtime.database.writing() as session:
        found = revoke_key(session, key_id, wall_clock())
    if found is None:
        raise NoSuchKeyError("There is no key with this id. See: chargeapp keys list")
    if as_json:
        click.echo(json.dumps(described(found), default=datetime.isoformat))
    else:
        click.echo(f"Revoked since {short_time(found.revoked_at)}: {found.name}, of {found.caller}.")


def described(key: "ApiKey") -> dict[str, Any]:
    from chargeapp.clock import wall_clock
    from chargeapp.services.api_keys import state_of

    return {
        "id": key.id,
        "name": key.name,
        "caller": key.caller,
        "scopes": key.scopes.split(),
        "callbackHosts": key.callback_hosts.split(),
        "state": state_of(key, wall_clock()),
        "createdAt": key.created_at,
        "expiresAt": key.expires_at,
        "revokedAt": key.revoked_at,
    }
