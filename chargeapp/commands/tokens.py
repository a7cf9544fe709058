"""`chargeapp tokens`: what is stored of drivers."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from chargeapp.commands.opened import opened_runtime
from chargeapp.errors import ChargeappError

if TYPE_CHECKING:
    from chargeapp.runtime import Runtime
    from chargeapp.services.driver_tokens import Erased

FIRST = ""


class NotAllResealedError(ChargeappError):
    """Something cannot be opened with the keys configured."""


class NotAllErasedError(ChargeappError):
    """Some requests of this driver are still under way."""


@click.group()
def tokens() -> None:
    """Seal driver tokens with a new key, and erase a driver's data.

    \b
    Examples:
      chargeapp tokens rotate
      chargeapp tokens erase -
    """


@tokens.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rotate(as_json: bool) -> None:
    """Seal all that is stored with the newest of DRIVER_TOKEN_KEYS. Safe to repeat, and while everything runs.

    Driver tokens and callers' webhook secrets are sealed. To change the key: make one with `chargeapp secrets
    generate` and put it in front of the old one, DRIVER_TOKEN_KEYS=new,old; restart all processes; run this; then
    take the old key away and restart again. If processes are restarted one by one, begin with old,new, which lets
    all of them open what the new key seals before any of them seals with it.

    It says which key it took for the newest: the beginning of `printf %s KEY | sha256sum`. Compare before you take the
    old one away, for a shell that was opened before knows the old one only.

    DRIVER_TOKEN_HASH_KEY is not changed by this, and must not be.

    \b
    Example:
      chargeapp tokens rotate
    """
    from chargeapp.commands.printing import progress
    from chargeapp.services.driver_tokens import count_sealed, reseal_driver_tokens, reseal_webhook_secrets

    with opened_runtime() as runtime:
        newest = runtime.vault.fingerprint
        with runtime.database.writing() as session:
            bites = [reseal_webhook_secrets(session, runtime.secret_vault)]
        with runtime.database.reading() as session:
            total = count_sealed(session)
        with progress("Sealing", total) as advance:
            after: str | None = FIRST
            while after is not None:
                with runtime.database.writing() as session:
                    bite = reseal_driver_tokens(session, runtime.vault, after)
                bites.append(bite)
                after = bite.last_id
                advance(bite.looked_at)
                let_others_write()
    looked_at = sum(bite.looked_at for bite in bites)
    resealed = sum(bite.resealed for bite in bites)
    unreadable = sum(bite.unreadable for bite in bites)
    if as_json:
        click.echo(
            json.dumps({"stored": looked_at, "resealed": resealed, "unreadable": unreadable, "newestKey": newest})
        )
    else:
        click.echo(f"{resealed:,} of {looked_at:,} sealed anew; the others were already. The newest key is {newest}.")
    if unreadable:
        raise NotAllResealedError(f"{unreadable:,} cannot be opened with any of DRIVER_TOKEN_KEYS: a key is missing.")


@tokens.command()
@click.argument("token")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def erase(token: str, as_json: bool) -> None:
    """Erase what is stored of the driver with this TOKEN (`-`: from standard input). There is no way back.

    In all requests of the driver the sealed token, its hash and its masked form go, and in callback addresses the
    token; its entries in the access list are removed. The requests themselves stay, and so do all figures.

    A request under way needs the token for its callback, so it is left alone; the command then says by when the last
    of them ends, and ends with status 1. Run it again afterwards. Backups are not changed: delete those that are older.

    Prefer `-`: what is written on a command line can be seen by every user of the machine, and stays in the shell's
    history.

    \b
    Examples:
      chargeapp tokens erase -                    asks for the token
      chargeapp tokens erase - < token.txt
    """
    from chargeapp.commands.access_list_entries import BadTokenError, given_token
    from chargeapp.commands.printing import short_time
    from chargeapp.services.access_list import ANY

    with opened_runtime() as runtime:
        token = given_token(token, runtime.settings.driver_token_min_length)
        if token == ANY:
            raise BadTokenError("Name one driver: * stands for all.")
        done = erase_everywhere(runtime, token)
    found = {**asdict(done), "over_by": done.over_by.isoformat() if done.over_by else None}
    if as_json:
        click.echo(json.dumps(found))
    else:
        click.echo(f"Erased in {done.requests:,} requests, and {done.access_list_entries:,} access list entries.")
    if done.over_by:
        raise NotAllErasedError(
            f"{done.under_way:,} requests are under way and keep the token for now. Run this again after "
            f"{short_time(done.over_by)}."
        )


def erase_everywhere(runtime: "Runtime", token: str) -> "Erased":
    """Bite by bite, so that nobody waits for it; then the log of the database is emptied into it."""
    from chargeapp.services.driver_tokens import Erased, erase_driver

    requests = entries = 0
    while True:
        with runtime.database.writing() as session:
            bite = erase_driver(session, token, runtime.vault.hash(token))
        requests += bite.requests
        entries += bite.access_list_entries
        if not bite.requests:
            runtime.database.checkpoint()
            return Erased(requests, entries, bite.under_way, bite.over_by)
        let_others_write()


def let_others_write() -> None:
    """Requests wait behind a transaction of this command, never behind all of them."""
    time.sleep(0.001)
