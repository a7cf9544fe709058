"""Requests whose caller was never told: found by why, where and when, with a bounded look at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Reason, State, oldest_request_id
from chargeapp.storage.models import EventRecord, SessionRequest

REASONS = (Reason.UNDELIVERABLE, Reason.GONE, Reason.BLOCKED, Reason.EXPIRED)
# A rare reason is looked for among so many requests at a time, however many there are.
LOOKED_AT = 500
# So many of one station's requests are looked through at a time, whatever share of them failed.
LOOKED_THROUGH = 2_000
ID = SessionRequest.id
REASON = EventRecord.details["reason"].as_string().label("reason")


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
class Look:
    """`where` finds some; `before` is where to look on, None if there is nothing older."""

    where: list[ColumnElement[bool]]
    before: str | None


@dataclass(frozen=True)
class Page:
    """`before` as above."""

    found: list[Failed]
    before: str | None


def page_of_failed(session: Session, wanted: Wanted, before: str | None, limit: int) -> Page:
    """Newest first. It may have fewer than `limit`, even none, and still be followed by another."""
    seen = look(session, wanted, before, limit)
    ids = ids_in(session, seen)
    requests = session.scalars(select(SessionRequest).where(ID.in_(ids[:limit])).order_by(ID.desc()))
    reasons = _reasons(session, ids[:limit])
    found = [Failed(each, reasons.get(each.id, "")) for each in requests]
    return Page(found, seen.before if len(ids) <= limit else ids[limit - 1])


def look(session: Session, wanted: Wanted, before: str | None, limit: int) -> Look:
    """At the newest of them, `limit` at most; at LOOKED_AT where the state does not tell the reason."""
    exact = wanted.reason in (None, Reason.EXPIRED)
    floor_of = _floor if wanted.station_id is None else _floor_at_station
    floor = floor_of(session, wanted, before, limit if exact else LOOKED_AT)
    # One lower bound only: given two, SQLite may begin its walk at the lower one.
    where = [*_until(wanted, before), *(_since(wanted) if floor is None else [floor <= ID])]
    if wanted.station_id is None:
        where.append(SessionRequest.state.in_(wanted.states))
    else:
        where += [SessionRequest.station_id == wanted.station_id, _failed_in_any_index(wanted)]
    if wanted.reason is not None:
        where.append(exists().where(EventRecord.request_id == ID, EventRecord.terminal, wanted.reason == REASON))
    return Look(where, floor)


def ids_in(session: Session, seen: Look) -> list[str]:
    """The newest first."""
    return list(session.scalars(select(ID).where(*seen.where).order_by(ID.desc())))


def _floor(session: Session, wanted: Wanted, before: str | None, limit: int) -> str | None:
    """The id down to which a look goes; None if it reaches the end."""
    window = [*_since(wanted), *_until(wanted, before)]
    # One state at a time, so that an index has them in this order.
    found = [
        each
        for state in wanted.states
        for each in session.scalars(
            select(ID).where(SessionRequest.state == state, *window).order_by(ID.desc()).limit(limit)
        )
    ]
    return sorted(found, reverse=True)[limit - 1] if len(found) >= limit else None


def _floor_at_station(session: Session, wanted: Wanted, before: str | None, limit: int) -> str | None:
    """The same by the index of the station."""
    there = [SessionRequest.station_id == wanted.station_id, *_until(wanted, before)]
    floor = session.scalar(
        select(ID).where(*there, *_since(wanted)).order_by(ID.desc()).offset(LOOKED_THROUGH - 1).limit(1)
    )
    there += _since(wanted) if floor is None else [floor <= ID]
    failed = select(ID).where(*there, _failed_in_any_index(wanted)).order_by(ID.desc())
    return session.scalar(failed.offset(limit - 1).limit(1)) or floor


def _failed_in_any_index(wanted: Wanted) -> ColumnElement[bool]:
    # Given the bare column, a database may take the index of the state instead.
    return func.coalesce(SessionRequest.state, "").in_(wanted.states)


def _since(wanted: Wanted) -> list[ColumnElement[bool]]:
    return [oldest_request_id(wanted.since) <= ID] if wanted.since is not None else []


def _until(wanted: Wanted, before: str | None) -> list[ColumnElement[bool]]:
    ends = [oldest_request_id(wanted.until)] if wanted.until is not None else []
    return [end > ID for end in ([*ends, before] if before is not None else ends)]


def _reasons(session: Session, request_ids: Collection[str]) -> dict[str, str]:
    """How each ended, which a redelivery that fails does not change."""
    facts = session.execute(
        select(EventRecord.request_id, REASON).where(EventRecord.request_id.in_(request_ids), EventRecord.terminal)
    )
    return {fact.request_id: fact.reason or "" for fact in facts}
