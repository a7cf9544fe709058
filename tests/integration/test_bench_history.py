"""The bench's long history: copies of finished requests that look like any others, with nothing left to do."""

import sys
from datetime import timedelta
from pathlib import Path

from sqlalchemy import func, select, text
from support.builders import Requests, accept, attempt, decide, end, new_database, rows

from chargeapp.clock import utcnow
from chargeapp.services.retention import Retention, forget
from chargeapp.storage.models import Base, EventRecord, SessionRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benching.history import multiply


def test_copies_have_all_the_rows_of_what_they_were_copied_from(tmp_path: Path) -> None:
    now = utcnow()
    with new_database(tmp_path) as database:
        accept(database, now=now, idempotency_key="once", body_hash="of its body")
        decide(database, now=now)
        attempt(database, now=now)
        end(database, now=now)
        events = len(rows(database, EventRecord))
        database.close()
        shown: list[int] = []

        multiply(database.path, 100, shown.append)

        with database.reading() as session:
            counts = {
                table.name: session.scalar(select(func.count()).select_from(table))
                for table in Base.metadata.tables.values()
                if "request_id" in table.c
            }
            states = set(session.scalars(select(SessionRequest.state)))
            ids = session.scalars(select(SessionRequest.id).order_by(SessionRequest.accepted_at)).all()
            damage = session.execute(text("PRAGMA foreign_key_check")).all()
            integrity = session.scalar(text("PRAGMA integrity_check"))
            journal = session.scalar(text("PRAGMA journal_mode"))
        payloads = {(row.request_id, row.payload["request_id"]) for row in rows(database, Requests)}
        with database.writing() as session:
            forgotten = forget(session, Retention(timedelta(days=30), timedelta(hours=24)), now)

    assert counts.pop("events") == events * 101
    assert set(counts.values()) == {101}
    assert states == {"delivered"}
    assert ids == sorted(ids)
    assert payloads == {(id_, id_) for id_ in ids}
    assert (damage, integrity, journal) == ([], "ok", "wal")
    assert not forgotten
    assert shown[-1] == 100
