"""`chargeapp secrets`: what production needs and must not make up by itself, and changing what signs callbacks."""

import json
from datetime import datetime, timedelta

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.commands.parameters import Duration


@click.group()
def secrets() -> None:
    """Make the secrets that production needs, and change those that sign callbacks.

    \b
    Examples:
      chargeapp secrets generate
      chargeapp secrets rotate --caller roaming-hub
      chargeapp secrets list
    """


@secrets.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def generate(as_json: bool) -> None:
    """Print new secrets as the lines of an .env file. Nothing is stored.

    Keep them: without DRIVER_TOKEN_HASH_KEY no access list entry is found again, and without DRIVER_TOKEN_KEYS no
    stored driver token can be read. To rotate the latter, see `chargeapp tokens rotate --help`.

    \b
    Examples:
      chargeapp secrets generate
      (umask 077; chargeapp secrets generate > .env)
    """
    from chargeapp.security.secrets_file import new_secrets

    made = new_secrets()
    if as_json:
        click.echo(json.dumps(made, indent=2))
    else:
        click.echo("\n".join(f"{name}={value}" for name, value in made.items()))


@secrets.command()
@click.option("--caller", default="", help="Only for this caller. Default: for all that have none of their own.")
@click.option(
    "--overlap", type=Duration(), default="24h", show_default=True, help="How long the old one signs beside the new."
)
@click.option("--ed25519", is_flag=True, help="A key pair: callers get the public key, and cannot sign with it.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rotate(caller: str, overlap: timedelta, ed25519: bool, as_json: bool) -> None:
    """Make a new secret that signs callbacks, and print it: it is shown only now.

    It signs at once, and the one before beside it until the overlap ends, so callers may change over at any time
    meanwhile: whoever knows one of the two finds a signature that fits. --overlap 0 is for a secret that leaked.

    Without --caller this takes the place of WEBHOOK_SECRET, which then signs nothing any more once the overlap ends.
    Running processes follow within seconds.

    \b
    Examples:
      chargeapp secrets rotate
      chargeapp secrets rotate --caller roaming-hub --overlap 7d
      chargeapp secrets rotate --caller roaming-hub --ed25519
      chargeapp secrets rotate --caller roaming-hub --overlap 0
    """
    from chargeapp.clock import wall_clock
    from chargeapp.commands.printing import short_time
    from chargeapp.security.signatures import Kind, verification_key
    from chargeapp.services.webhook_secrets import has_api_key, rotate_secret

    now = wall_clock()
    with opened_runtime() as runtime, runtime.database.writing() as session:
        secret = rotate_secret(
            session,
            runtime.secret_vault,
            caller=caller,
            configured=runtime.secrets.webhook_secret,
            kind=Kind.ED25519 if ed25519 else Kind.SYMMETRIC,
            overlap=overlap,
            now=now,
        )
        known = not caller or has_api_key(session, caller)
    if as_json:
        until = (now + overlap).isoformat(timespec="seconds")
        click.echo(json.dumps({"caller": caller, "verificationKey": verification_key(secret), "overlapUntil": until}))
        return
    click.echo(verification_key(secret))
    whose = f"caller {caller}" if caller else "all callers that have none of their own"
    until = f"signs beside it until {short_time(now + overlap)}" if overlap else "signs nothing any more"
    click.echo(f"This is the new {_word(ed25519)} of {whose}. The one before {until}.", err=True)
    if not known:
        click.echo(f"No API key belongs to a caller {caller} (yet): see chargeapp keys list", err=True)


@secrets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(as_json: bool) -> None:
    """Show which secrets sign callbacks, by fingerprint. Of a key pair the public key is shown.

    \b
    Examples:
      chargeapp secrets list
      chargeapp secrets list --json | jq '.[] | select(.retiresAt)'
    """
    from chargeapp.clock import wall_clock
    from chargeapp.commands.printing import print_table
    from chargeapp.storage.webhook_secrets import EVERYBODY, in_force

    with opened_runtime() as runtime:
        with runtime.database.reading() as session:
            stored: list[tuple[str, str, datetime | None, datetime | None]] = [
                (each.caller, runtime.secret_vault.open(each.secret_sealed), each.created_at, each.retires_at)
                for each in in_force(session, wall_clock())
            ]
        if not any(caller == EVERYBODY for caller, *_ in stored):
            stored.insert(0, (EVERYBODY, runtime.secrets.webhook_secret, None, None))
    rows = [_described(*each) for each in stored]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        headings = ("CALLER", "KIND", "FINGERPRINT", "SINCE", "UNTIL", "PUBLIC KEY")
        print_table(headings, [(row["caller"] or "(all others)", *list(row.values())[1:]) for row in rows])


def _described(
    caller: str, secret: str, created_at: datetime | None, retires_at: datetime | None
) -> dict[str, str | None]:
    from chargeapp.security.signatures import Kind, fingerprint, kind_of, verification_key

    kind = kind_of(secret)
    return {
        "caller": caller,
        "kind": kind,
        "fingerprint": fingerprint(secret),
        "createdAt": _iso(created_at),
        "retiresAt": _iso(retires_at),
        "publicKey": verification_key(secret) if kind is Kind.ED25519 else None,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment else None


def _word(ed25519: bool) -> str:
    return "public key" if ed25519 else "secret"
