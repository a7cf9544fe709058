"""After the clock was set back: what was to happen soon must not wait until it has caught up.

Hardly anybody's clock matters, thanks to `chargeapp/clock.py`: on PostgreSQL only the server's, on SQLite only jumps of
more than two hours, or while the machine is off.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from chargeapp.pipeline import STAGES
from chargeapp.storage import heartbeats
from chargeapp.storage.models import OutboxRow, SessionRequest
from chargeapp.storage.turns import DEADLINES, take_turn

# Less is an ordinary correction; whatever waits for it waits no longer than that.
TOLERATED = timedelta(seconds=5)
NOTHING = timedelta()


def follow_clock_back(session: Session, process: str, now: datetime) -> timedelta:
    """Sets back all that is open by as much as the clock was since `process` said that it works; returns how much.

    Only what was stored before that, so in the future as it seems now, is touched: later rows have right times.
    """
    take_turn(session, DEADLINES)
    last = heartbeats.last(session, process)
    back = last - now if last else NOTHING
    if back <= TOLERATED:
        return NOTHING
    requests = select(SessionRequest).where(SessionRequest.ended_at.is_(None), SessionRequest.accepted_at > now)
    _set_back(session, SessionRequest, list(session.scalars(requests)), ("decide_by", "expires_at"), back)
    for stage in STAGES:
        table = stage.outbox
        rows = select(table).where(table.settled_at.is_(None), table.dead_at.is_(None), table.created_at > now)
        _set_back(session, table, list(session.scalars(rows)), ("due_at", "lease_until"), back)
    return back


def _set_back(
    session: Session, table: type[SessionRequest | OutboxRow], rows: list[Any], columns: tuple[str, ...], by: timedelta
) -> None:
    changed = [
        {"id": row.id, **{name: moment - by for name in columns if (moment := getattr(row, name)) is not None}}
        for row in rows
    ]
    if changed:
        session.execute(update(table), changed)
