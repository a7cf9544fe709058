"""Moving a store to PostgreSQL: everything arrives, a tool that was killed goes on, the old file takes no more."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import DRIVER, accept, ago, chargeapp, data_dir, end, now, runtime, tables
from sqlalchemy import insert, select
from support.postgres_server import EMPTY, PostgresServer

from chargeapp.domain.callback import Outcome
from chargeapp.pipeline import AUTHORIZATION
from chargeapp.services.access_list import ANY, Entry, put_entries
from chargeapp.storage import outbox
from chargeapp.storage.database import Database
from chargeapp.storage.models import Base, EventRecord, Heartbeat, IdempotencyKey

__all__ = ["data_dir", "tables"]

# Killed just before it would call this.
KILLED = """
import os, signal, sys
from chargeapp.commands import main
from chargeapp.storage.moving import source, store_move, target

module, name, call = sys.argv.pop(1), sys.argv.pop(1), int(sys.argv.pop(1))
module = {"source": source, "target": target, "store_move": store_move}[module]
original = getattr(module, name)
calls = 0

def kill(*given):
    global calls
    calls += 1
    if calls == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*given)

setattr(module, name, kill)
main()
"""
# What means something in SQLite's JSON or PostgreSQL's COPY.
ODD_KEY = 'a "key"\t\\N\n\\.'
POINTS = [
    ("target", "begin", 1),  # changes are noted, PostgreSQL knows of nothing
    ("target", "copy", 3),
    ("target", "note", 6),
    ("source", "forget_changes", 1),
    ("target", "analyze", 1),
    ("target", "number_on", 1),
    ("source", "close_for_good", 1),  # PostgreSQL has everything, SQLite still decides
    ("target", "finish", 1),  # SQLite has said that it moved
]


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.new_database(EMPTY) as url:
        yield url


@pytest.fixture
def filled(tables: Path) -> Path:
    """Requests on several steps of their way, and a row of everything else."""
    with runtime() as app:
        for _ in range(3):
            end(app, Outcome.DELIVERED, at=ago(days=60))
        end(app, Outcome.RETRY)
        accept(app)
        with app.database.writing() as session:
            put_entries(session, [Entry(app.vault.hash(DRIVER), "driv…0001", ANY, blocked=True)], now())
            session.execute(
                insert(IdempotencyKey).values(
                    caller="", key='a "key"\t\\N', body_hash="h", request_id="r", created_at=now()
                )
            )
            session.add(Heartbeat(process="relay", at=now()))
            [held] = outbox.claim_due(session, AUTHORIZATION.outbox, job_id="under way", limit=1, now=now(), taken=True)
            assert held.seq == 1
    assert chargeapp("keys", "create", "--name", "hub", "--scope", "submit").status == 0
    assert chargeapp("secrets", "rotate", "--caller", "hub").status == 0
    return tables


def everything(database: Database) -> dict[str, list[tuple[object, ...]]]:
    with database.reading() as session:
        return {
            table.name: sorted(map(tuple, session.execute(select(table)).all()), key=repr)
            for table in Base.metadata.sorted_tables
            if table.name != "heartbeats"
        }


def move(url: str) -> dict[str, object]:
    ended = chargeapp("migrate-store", "--to", url, "--json")
    assert ended.status == 0, ended.err
    found: dict[str, object] = json.loads(ended.out)
    return found


def move_killed(url: str, *point: object) -> None:
    command = [sys.executable, "-c", KILLED, *map(str, point), "migrate-store", "--to", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_every_row_arrives_as_it_was(filled: Path, url: str) -> None:
    with runtime() as app:
        before = everything(app.database)

    told = move(url)

    with runtime() as app:
        assert everything(app.database) == before
        assert app.database.path is None
    assert all(before[name] for name in ("events", "api_keys", "webhook_secrets", "idempotency_keys", "access_list"))
    assert told["state"] == "moved"
    assert told["before"] == told["after"] == {name: len(rows) for name, rows in before.items()}


def test_new_rows_are_numbered_after_the_moved_ones(filled: Path, url: str) -> None:
    move(url)

    with runtime() as app:
        request_id = accept(app)
        with app.database.reading() as session:
            assert len(session.scalars(select(EventRecord).where(EventRecord.request_id == request_id)).all()) == 1


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[1]} {point[2]}")
def test_a_tool_that_was_killed_is_repeated(filled: Path, url: str, point: tuple[str, str, int]) -> None:
    with runtime() as app:
        move_killed(url, *point)
        # Where that is by now: a process that ran all the time finds out.
        accept(app)
        end(app, Outcome.DELIVERED, at=ago(days=60))
        before = everything(app.database)
        switched = app.database.path is None

    told = move(url)

    with runtime() as app:
        assert everything(app.database) == before
        assert app.database.path is None
    assert told["state"] == ("moved before" if switched else "moved")
    assert switched == (point[1] == "finish")
