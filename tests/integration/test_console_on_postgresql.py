"""The console on PostgreSQL: forms that arrive at the same time, and texts that it cannot store or look up."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from support.builders import eventually, new_runtime
from support.console import Visitor
from support.postgres_server import PostgresServer

import chargeapp.app
from chargeapp.clock import utcnow
from chargeapp.runtime import Runtime
from chargeapp.security.api_keys import Scope
from chargeapp.security.signatures import Kind
from chargeapp.services.api_keys import NewKey, create_key
from chargeapp.services.webhook_secrets import rotate_secret
from chargeapp.storage.turns import take_turn


@pytest.fixture
def visitor(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visitor]:
    with postgres.new_database() as url, new_runtime(tmp_path, database_url=url) as runtime:
        # So that its connections are closed at the end.
        monkeypatch.setattr(chargeapp.app, "Runtime", lambda _: runtime)
        yield Visitor(runtime)


def make_key(session: Session, _: Runtime) -> None:
    take_turn(session, "api keys")
    create_key(session, NewKey("hub", "hub", [Scope.READ], None, ()), utcnow())


def rotate(session: Session, runtime: Runtime) -> None:
    take_turn(session, "webhook secrets")
    rotate_secret(
        session,
        runtime.secret_vault,
        caller="hub",
        configured=runtime.secrets.webhook_secret,
        kind=Kind.SYMMETRIC,
        overlap=timedelta(),
        now=utcnow(),
    )


@pytest.mark.parametrize(
    ("path", "form", "work"),
    [("/keys", {"name": "hub", "scope": "read"}, make_key), ("/secrets", {"caller": "hub", "overlap": "0"}, rotate)],
    ids=["key", "secret"],
)
def test_a_form_sent_twice_at_the_same_time_is_done_once(
    visitor: Visitor, path: str, form: dict[str, str], work: Callable[[Session, Runtime], None]
) -> None:
    given: dict[str, Any] = {**form, "latest": visitor.hidden(path, "latest")}
    database = visitor.runtime.database

    def anybody_waits() -> bool:
        waiting = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
        with database.reading() as session:
            return session.scalar(waiting) is not None

    with ThreadPoolExecutor(1) as pool:
        with database.writing() as session:
            work(session, visitor.runtime)
            later = pool.submit(visitor.post, path, **given)
            eventually(lambda: later.done() or anybody_waits(), "it neither waits nor ends")
        answer = later.result(10)

    assert answer.status_code == 400
    assert "was made since this page was loaded" in answer.text


def test_what_it_cannot_store_is_no_fault_of_the_server(visitor: Visitor) -> None:
    assert visitor.get(f"/access-list?after={'0' * 64}:%00x").status_code == 400
    assert visitor.get(f"/access-list?after={'0' * 64}:*").status_code == 200
    assert visitor.post("/keys/revocation", id="a\0b").status_code == 400
