"""What happened cannot be made not to have happened."""

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import IntegrityError
from support.builders import accept, rows

from chargeapp.storage.database import Database
from chargeapp.storage.models import EventRecord


def test_events_cannot_be_changed(database: Database) -> None:
    accept(database)

    with pytest.raises(IntegrityError, match="events are never changed"), database.writing() as session:
        session.execute(update(EventRecord).values(type="SomethingElse"))

    assert [each.type for each in rows(database, EventRecord)] == ["RequestAccepted"]


def test_a_request_has_one_terminal_event_at_most(database: Database) -> None:
    (request_id,) = accept(database)
    insert = text(
        "INSERT INTO events (request_id, type, at, details, terminal) VALUES (:id, 'End', '2026-01-01', '{}', true)"
    )

    with pytest.raises(IntegrityError, match=r"(?i)unique"), database.writing() as session:
        for _ in range(2):
            session.execute(insert, {"id": request_id})
