"""Who gets in: whether there are API keys where they are needed, and which will soon be good for nothing."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from chargeapp.clock import wall_clock
from chargeapp.commands.checks import Finding, fail, ok, warn
from chargeapp.commands.checks.files import is_to_be_made
from chargeapp.commands.opened import check_tables
from chargeapp.config import Settings
from chargeapp.errors import ChargeappError
from chargeapp.runtime import Runtime
from chargeapp.services.api_keys import KeyState, list_keys, state_of
from chargeapp.storage.models import ApiKey
from chargeapp.web.auth import HOW_TO_MAKE, may_be_open

SOON = timedelta(days=7)


def check_access(runtime: Runtime) -> Iterator[Finding]:
    """Says nothing where the database does not work: another check tells of that."""
    if is_to_be_made(runtime.settings):
        return
    try:
        check_tables(runtime.database)
        with runtime.database.reading() as session:
            found = list_keys(session)
    except (ChargeappError, SQLAlchemyError):
        return
    yield keys(found, runtime.settings, wall_clock())


def keys(found: Sequence[ApiKey], settings: Settings, now: datetime) -> Finding:
    usable = [key for key in found if state_of(key, now) is KeyState.USABLE]
    if not found and may_be_open(settings):
        return ok("API keys", f"none: whoever reaches {settings.host} may do everything")
    if not usable:
        left = f"none of {len(found):,} is usable: nobody gets in" if found else "none: the API does not start"
        return (warn if found and may_be_open(settings) else fail)("API keys", left, HOW_TO_MAKE)
    soon = [key for key in usable if key.expires_at is not None and key.expires_at <= now + SOON]
    if soon:
        names = ", ".join(f"{key.name} ({key.id})" for key in soon)
        found_soon = f"{len(usable):,} usable, but expiring within {SOON.days} days: {names}"
        return warn("API keys", found_soon, "make new ones, and have their callers change over")
    return ok("API keys", f"{len(usable):,} usable")
