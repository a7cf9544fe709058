"""Requests whose caller was never told: found by why, where and when, with a bounded look at a time."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Reason, State, oldest_request_id
from chargeapp.storage.models import EventRecord, SessionRequest

REASONS = (Reason.UNDELIVERABLE, Reason.GONE, Reason.BLOCKED, Reason.EXPIRED)
# A rare reason is looked for among so many requests at a time, however many there are.
LOOKED_AT = 500


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
    looked_at = [each for state in wanted.states for each in _newest(session, state, wanted, before, most)]
    looked_at = sorted(looked_at, key=lambda each: each.id, reverse=True)[:most]
    reasons = _reasons(session, [each.id for each in looked_at])
    found = [Failed(each, reasons.get(each.id, "")) for each in looked_at]
    found = [each for each in found if wanted.reason in (None, each.reason)]
    if len(found) > limit or len(looked_at) == most:
        found = found[:limit]
        return Page(found, found[-1].request.id if len(found) == limit else looked_at[-1].id)
    return Page(found, None)


def _newest(
    session: Session, state: State, wanted: Wanted, before: str | None, limit: int
) -> Collection[SessionRequest]:
    # One state at a time, so that an index has them in this order.
    statement = select(SessionRequest).where(SessionRequest.state == state)
    if wanted.station_id is not None:
        statement = statement.where(SessionRequest.station_id == wanted.station_id)
    if wanted.since is not None:
        statement = statement.where(SessionRequest.id >= oldest_request_id(wanted.since))
    if wanted.until is not None:
        statement = statement.where(SessionRequest.id < oldest_request_id(wanted.until))
    if before is not None:
        statement = statement.where(SessionRequest.id < before)
    return session.scalars(statement.order_by(SessionRequest.id.desc()).limit(limit)).all()


def _reasons(session: Session, request_ids: Collection[str]) -> dict[str, str]:
    """How each ended, which a redelivery that fails does not change."""
    facts = session.execute(
        select(EventRecord.request_id, EventRecord.details).where(
            EventRecord.request_id.in_(request_ids), EventRecord.terminal
        )
    )
    return {fact.request_id: str(fact.details.get("reason", "")) for fact in facts}
