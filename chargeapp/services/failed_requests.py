"""Requests whose caller was never told: found by why, where and when, with a bounded look at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Reason, State, oldest_request_id
from chargeapp.storage.models import EventRecord, SessionRequest

REASONS = (Reason.UNDELIVERABLE, Reason.GONE, Reason.BLOCKED, Reason.EXPIRED)
# A rare reason is looked for among so many requests at a time, however many there are.
LOOKED_AT = 500
# So many of one station's requests are looked through at a time, whatever share of them failed.
LOOKED_THROUGH = 2_000
ID = SessionRequest.id


@dataclass(frozen=True)
class Wanted:
    """What is None does not matter. Times are those of acceptance: `since` belongs to the window, `until` not."""

    reason: str | None = None
    station_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def states(self) -> tuple[State, ...]:
        if self.reason is None:
            return State.FAILED, State.EXPIRED
        return (State.EXPIRED,) if self.reason == Reason.EXPIRED else (State.FAILED,)


@dataclass(frozen=True)
class Failed:
    request: SessionRequest
    reason: str


@dataclass(frozen=True)
class Page:
    """`before` is where to look on; None if there is nothing older."""

    found: list[Failed]
    before: str | None


def page_of_failed(session: Session, wanted: Wanted, before: str | None, limit: int) -> Page:
    """Newest first. It may have fewer than `limit`, even none, and still be followed by another."""
    most = limit if wanted.reason in (None, Reason.EXPIRED) else max(limit, LOOKED_AT)
    newest = _newest if wanted.station_id is None else _newest_of_station
    looked_at, older = newest(session, wanted, before, most)
    reasons = _reasons(session, [each.id for each in looked_at])
    found = [Failed(each, reasons.get(each.id, "")) for each in looked_at]
    found = [each for each in found if wanted.reason in (None, each.reason)]
    if len(found) > limit:
        return Page(found[:limit], found[limit - 1].request.id)
    return Page(found, older)


def _newest(
    session: Session, wanted: Wanted, before: str | None, limit: int
) -> tuple[list[SessionRequest], str | None]:
    """Newest first, and the id down to which this looked if there may be more."""
    window = [*_since(wanted), *_until(wanted, before)]
    # One state at a time, so that an index has them in this order.
    found = [
        each
        for state in wanted.states
        for each in session.scalars(
            select(SessionRequest).where(SessionRequest.state == state, *window).order_by(ID.desc()).limit(limit)
        )
    ]
    found = sorted(found, key=lambda each: each.id, reverse=True)[:limit]
    return found, found[-1].id if len(found) == limit else None


def _newest_of_station(
    session: Session, wanted: Wanted, before: str | None, limit: int
) -> tuple[list[SessionRequest], str | None]:
    """The same by the index of the station."""
    there = [SessionRequest.station_id == wanted.station_id, *_until(wanted, before)]
    floor = session.scalar(
        select(ID).where(*there, *_since(wanted)).order_by(ID.desc()).offset(LOOKED_THROUGH - 1).limit(1)
    )
    # One lower bound only: given two, SQLite may begin its walk at the lower one.
    there += _since(wanted) if floor is None else [floor <= ID]
    # Given the bare column, a database may take the index of the state instead.
    failed = func.coalesce(SessionRequest.state, "").in_(wanted.states)
    found = list(session.scalars(select(SessionRequest).where(*there, failed).order_by(ID.desc()).limit(limit)))
    return found, found[-1].id if len(found) == limit else floor


def _since(wanted: Wanted) -> list[ColumnElement[bool]]:
    return [oldest_request_id(wanted.since) <= ID] if wanted.since is not None else []


def _until(wanted: Wanted, before: str | None) -> list[ColumnElement[bool]]:
    ends = [oldest_request_id(wanted.until)] if wanted.until is not None else []
    return [end > ID for end in ([*ends, before] if before is not None else ends)]


def _reasons(session: Session, request_ids: Collection[str]) -> dict[str, str]:
    """How each ended, which a redelivery that fails does not change."""
    facts = session.execute(
        select(EventRecord.request_id, EventRecord.details).where(
            EventRecord.request_id.in_(request_ids), EventRecord.terminal
        )
    )
    return {fact.request_id: str(fact.details.get("reason", "")) for fact in facts}
