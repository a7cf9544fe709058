"""Appends facts to requests' timelines, and reads the newest of all requests."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, func, insert, select
from sqlalchemy.orm import Session

from chargeapp.domain.callback import Outcome
from chargeapp.domain.charging_session import Decision, Event
from chargeapp.storage import news
from chargeapp.storage.models import EventRecord, SessionRequest
from chargeapp.storage.prepared import Prepared

INSERT = Prepared(insert(EventRecord))


@dataclass(frozen=True)
class Fact:
    request_id: str
    type: str
    details: dict[str, Any] = field(default_factory=dict)
    terminal: bool = False
    at: datetime | None = None


def append(session: Session, facts: Sequence[Fact], now: datetime) -> None:
    """Each is also a line of the log. A second terminal fact of one request is refused by the database."""
    told = [news.News(each.request_id, each.type, each.details, as_it_should(each)) for each in facts]
    news.note(session, told)
    INSERT.change_each(
        session,
        [
            {
                "request_id": fact.request_id,
                "type": fact.type,
                "at": fact.at or now,
                "details": fact.details,
                "terminal": fact.terminal,
            }
            for fact in facts
        ],
    )


def as_it_should(fact: Fact) -> bool:
    """Nothing that an operator would have to know."""
    if fact.type == Event.AUTHORIZATION_DECIDED:
        return bool(fact.details["decision"] != Decision.UNKNOWN)
    if fact.type == Event.CALLBACK_ATTEMPTED:
        return bool(fact.details["outcome"] == Outcome.DELIVERED)
    return fact.type in (Event.REQUEST_ACCEPTED, Event.CALLBACK_DELIVERY_SUCCEEDED)


def newest(session: Session) -> int:
    """The number of the newest fact, 0 if there is none."""
    return session.scalar(select(func.max(EventRecord.id))) or 0


def following(session: Session, after: int, limit: int) -> list[Row[Any]]:
    """Up to `limit` facts behind number `after`, each with its request; found by their keys alone."""
    statement = _with_request().where(EventRecord.id > after).order_by(EventRecord.id).limit(limit)
    return list(session.execute(statement))


def numbered(session: Session, numbers: Collection[int]) -> list[Row[Any]]:
    """Those facts, as far as they are there."""
    return list(session.execute(_with_request().where(EventRecord.id.in_(numbers)).order_by(EventRecord.id)))


def _with_request() -> Select[Any]:
    # The outer join keeps the facts first, however the database would rather go about it.
    return select(
        EventRecord.id,
        EventRecord.request_id,
        EventRecord.type,
        EventRecord.at,
        EventRecord.details,
        SessionRequest.station_id,
        SessionRequest.token_masked,
        SessionRequest.state,
    ).join(SessionRequest, SessionRequest.id == EventRecord.request_id, isouter=True)
