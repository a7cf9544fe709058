"""Which station the request of an outbox row is about."""

from collections.abc import Collection

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.storage.models import OutboxRow, SessionRequest
from chargeapp.storage.outbox import Ticket


def stations_of(session: Session, outbox: type[OutboxRow], tickets: Collection[Ticket]) -> dict[int, str]:
    """By the number of the row."""
    statement = (
        select(outbox.id, SessionRequest.station_id)
        .join(SessionRequest, SessionRequest.id == outbox.request_id)
        .where(outbox.id.in_([ticket.row_id for ticket in tickets]))
    )
    return {row.id: row.station_id for row in session.execute(statement)}
