"""API keys for tests, and the API as their callers see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from chargeapp.app import create_app
from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.services.api_keys import NewKey, create_key, revoke_key
from support.builders import change, new_runtime

API = "/api/v1/charging-session"
BODY = {
    "stationId": "123e4567-e89b-12d3-a456-426614174000",
    "driverToken": "driver-token-of-callers-1",
    "callbackUrl": "https://caller.example/callback",
}


def make_key(
    runtime: Runtime,
    *scopes: Scope,
    caller: str = "hub",
    expires_at: datetime | None = None,
    hosts: tuple[str, ...] = (),
    now: datetime | None = None,
) -> str:
    new = NewKey(f"key of {caller}", caller, scopes, expires_at, hosts)
    key: str = change(runtime.database, lambda session: create_key(session, new, now or utcnow()))
    return key


def make_expired_key(runtime: Runtime, *scopes: Scope) -> str:
    now = utcnow()
    return make_key(runtime, *scopes, expires_at=now - timedelta(seconds=1), now=now - timedelta(days=1))


def revoke(runtime: Runtime, key: str) -> None:
    change(runtime.database, lambda session: revoke_key(session, key.split("_")[1], utcnow()))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def api_of(directory: Path, **settings: Any) -> Iterator[tuple[Runtime, FlaskClient]]:
    """A runtime whose database has all tables, and a client of its API."""
    with new_runtime(directory, **settings) as runtime:
        yield runtime, open_api(runtime)


def open_api(runtime: Runtime) -> FlaskClient:
    """Another process's view of the same database."""
    return create_app(runtime.settings).test_client()
