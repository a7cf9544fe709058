"""Every decision that is still kept, in the order of acceptance: for auditors, so without driver tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Event, oldest_request_id
from chargeapp.security.driver_tokens import TokenVault
from chargeapp.services.driver_tokens import ERASED
from chargeapp.storage.database import Database
from chargeapp.storage.models import EventRecord, SessionRequest

REQUESTS_A_LOOK = 1_000
FIRST = ""


@dataclass(frozen=True)
class Period:
    """Of acceptance: from `since`, if given, until before `until`."""

    since: datetime | None
    until: datetime

    def covers(self) -> ColumnElement[bool]:
        # Ids begin with the time of acceptance, so the primary key is all that is needed.
        began = oldest_request_id(self.since) if self.since else FIRST
        return and_(SessionRequest.id >= began, SessionRequest.id < oldest_request_id(self.until))


@dataclass(frozen=True)
class Page:
    decisions: list[dict[str, Any]]
    undecided: int


def count_requests(session: Session, period: Period) -> int:
    return session.scalar(select(func.count()).select_from(SessionRequest).where(period.covers())) or 0


def pages_of_decisions(database: Database, vault: TokenVault, period: Period) -> Iterator[Page]:
    """Each in a transaction of its own: a reader that stays for long keeps the log from shrinking."""
    after: str | None = FIRST
    while after is not None:
        with database.reading() as session:
            found = _requests(session, period, after)
            decided = [each for each in found if each.decided_at is not None]
            calls = _calls(session, [each.id for each in decided])
        yield Page([_described(each, calls.get(each.id, {}), vault) for each in decided], len(found) - len(decided))
        after = found[-1].id if len(found) == REQUESTS_A_LOOK else None


def _requests(session: Session, period: Period, after: str) -> Sequence[Row[Any]]:
    statement = (
        select(SessionRequest.__table__)
        .where(period.covers(), SessionRequest.id > after)
        .order_by(SessionRequest.id)
        .limit(REQUESTS_A_LOOK)
    )
    return session.execute(statement).all()


def _calls(session: Session, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the timelines tell of how each decision was found."""
    statement = select(EventRecord.request_id, EventRecord.details).where(
        EventRecord.request_id.in_(ids), EventRecord.type == Event.AUTHORIZATION_DECIDED
    )
    return {row.request_id: row.details for row in session.execute(statement)}


def _described(each: Row[Any], call: dict[str, Any], vault: TokenVault) -> dict[str, Any]:
    # Not the address itself: callers may have put anything into it.
    return {
        "requestId": each.id,
        "caller": each.caller,
        "stationId": each.station_id,
        "driver": each.token_hash if each.token_hash == ERASED else vault.pseudonym(each.token_hash),
        "acceptedAt": each.accepted_at.isoformat(),
        "decidedAt": each.decided_at.isoformat(),
        "decision": each.decision,
        "reason": each.reason,
        "source": each.source,
        "authorizationTries": call.get("tries"),
        "authorizationMillis": call.get("millis"),
        "callbackDestination": each.destination,
        "callbackAttempts": each.callback_attempts,
        "lastError": each.last_error,
        "state": each.state,
        "expiresAt": each.expires_at.isoformat(),
        "endedAt": each.ended_at.isoformat() if each.ended_at else None,
    }
