"""How far the delivery events were published for other services, and which come next."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, or_, select, update
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Event
from chargeapp.storage import timeline
from chargeapp.storage.models import EventFeed, EventRecord, SessionRequest
from chargeapp.storage.turns import RETENTION, take_turn

NAME = "kafka"
# Whoever publishes has done it by then, or has died.
HELD = timedelta(seconds=30)
DELIVERY_EVENTS = frozenset({Event.CALLBACK_DELIVERY_SUCCEEDED, Event.CALLBACK_DELIVERY_FAILED})


def position(session: Session) -> int | None:
    """The number of the last event that needs no more publishing; None if no feed was begun."""
    return session.scalar(select(EventFeed.position).where(EventFeed.name == NAME))


def begin(session: Session) -> None:
    """Events up to now are not published."""
    take_turn(session, RETENTION)
    if position(session) is None:
        session.add(EventFeed(name=NAME, position=timeline.newest(session)))


def following(session: Session, after: int, limit: int) -> list[Row[Any]]:
    """Numbers, types and times of the next events, found by their keys alone."""
    columns = select(EventRecord.id, EventRecord.type, EventRecord.at)
    return list(session.execute(columns.where(EventRecord.id > after).order_by(EventRecord.id).limit(limit)))


def described(session: Session, numbers: Collection[int]) -> list[Row[Any]]:
    """These events with what others may know of their requests, in their order."""
    statement = (
        select(
            EventRecord.id,
            EventRecord.request_id,
            EventRecord.type,
            EventRecord.at,
            EventRecord.details,
            EventRecord.terminal,
            SessionRequest.station_id,
            SessionRequest.decision,
        )
        .join(SessionRequest, SessionRequest.id == EventRecord.request_id)
        .where(EventRecord.id.in_(numbers))
        .order_by(EventRecord.id)
    )
    return list(session.execute(statement))


def hold(session: Session, stored: int, now: datetime) -> bool:
    """Keep other relays from publishing what follows position `stored`; False if one is at it, or has done it."""
    free = or_(EventFeed.held_until.is_(None), EventFeed.held_until <= now)
    mine = update(EventFeed).where(EventFeed.name == NAME, EventFeed.position == stored, free)
    changed: Any = session.execute(mine.values(held_until=now + HELD))
    return bool(changed.rowcount)


def let_go(session: Session) -> None:
    session.execute(update(EventFeed).where(EventFeed.name == NAME).values(held_until=None))


def move_on(session: Session, to: int) -> None:
    session.execute(update(EventFeed).where(EventFeed.name == NAME).values(position=to, held_until=None))
