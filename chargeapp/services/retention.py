"""Forgetting in time: driver tokens first, whole requests later. In small bites, so that nobody waits for it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, extract, func, select, tuple_, update
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import new_request_id
from chargeapp.services.driver_tokens import callback_under_way
from chargeapp.storage.dialects import upsert
from chargeapp.storage.idempotency import REMEMBERED
from chargeapp.storage.models import IdempotencyKey, SessionRequest, Tally
from chargeapp.storage.turns import RETENTION, take_turn

# For charts, minutes are kept apart for two hours and quarters of an hour for two days; what is older is one sum.
MINUTES_KEPT = timedelta(hours=2)
QUARTERS_KEPT = timedelta(hours=48)
QUARTER_MINUTES = 15
# Summed up in one transaction: every minute has a few dozen rows.
SUMMED_AT_ONCE = timedelta(hours=2)
TALLIES: Any = Tally.__table__
SUMMED_UP_AT = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Retention:
    requests: timedelta
    driver_tokens: timedelta


@dataclass(frozen=True)
class Forgotten:
    requests: int = 0
    driver_tokens: int = 0
    idempotency_keys: int = 0

    def __add__(self, other: "Forgotten") -> "Forgotten":
        return Forgotten(
            self.requests + other.requests,
            self.driver_tokens + other.driver_tokens,
            self.idempotency_keys + other.idempotency_keys,
        )

    def __bool__(self) -> bool:
        return bool(self.requests or self.driver_tokens or self.idempotency_keys)


def forget(session: Session, retention: Retention, now: datetime, limit: int = 500) -> Forgotten:
    """One bite of at most `limit` rows of each kind; an empty answer means that nothing is left to forget."""
    take_turn(session, RETENTION)
    return Forgotten(
        requests=_purge_requests(session, now - retention.requests, limit),
        driver_tokens=_erase_driver_tokens(session, now - retention.driver_tokens, limit),
        idempotency_keys=_purge_idempotency_keys(session, now - REMEMBERED, limit),
    )


def sum_up_old_minutes(session: Session, now: datetime) -> bool:
    """Keeps the totals right and their reading quick, however long the system runs.

    One bite, of the oldest; False means that nothing is left to sum up.
    """
    take_turn(session, RETENTION)
    quarters_since = _quarter_of(now - QUARTERS_KEPT)
    minute = extract("minute", Tally.minute)
    in_a_quarter = (Tally.minute < _quarter_of(now - MINUTES_KEPT)) & (minute % QUARTER_MINUTES != 0)
    old = (Tally.minute > SUMMED_UP_AT) & ((Tally.minute < quarters_since) | in_a_quarter)
    oldest = session.scalar(select(func.min(Tally.minute)).where(old))
    if oldest is None:
        return False
    sums: dict[tuple[str, datetime], list[int]] = {}
    # What is summed is what was deleted, whatever others add meanwhile.
    gone = delete(TALLIES).where(old, Tally.minute < oldest + SUMMED_AT_ONCE)
    for name, at, count, millis in session.execute(gone.returning(Tally.name, Tally.minute, Tally.count, Tally.millis)):
        into = SUMMED_UP_AT if at < quarters_since else _quarter_of(at)
        both = sums.setdefault((name, into), [0, 0])
        both[0] += count
        both[1] += millis
    upsert(session, Tally, ("name", "minute"), added=("count", "millis")).change_each(
        session,
        [
            {"name": name, "minute": into, "count": count, "millis": millis}
            # In one order for all, so that two writers never wait for each other in a circle.
            for (name, into), (count, millis) in sorted(sums.items())
        ],
    )
    return True


def _quarter_of(moment: datetime) -> datetime:
    return moment.replace(minute=moment.minute - moment.minute % QUARTER_MINUTES, second=0, microsecond=0)


def count_purgeable(session: Session, retention: Retention, now: datetime) -> int:
    """Requests that `forget` would remove, all bites together."""
    ended = _ended_before(now - retention.requests)
    return session.scalar(select(func.count()).select_from(SessionRequest).where(ended)) or 0


def _purge_requests(session: Session, ended_before: datetime, limit: int) -> int:
    oldest = session.scalars(
        select(SessionRequest.id).where(_ended_before(ended_before)).order_by(SessionRequest.id).limit(limit)
    ).all()
    if oldest:
        # Outbox rows and events go with their request.
        session.execute(delete(SessionRequest).where(SessionRequest.id.in_(oldest)))
    return len(oldest)


def _ended_before(moment: datetime) -> ColumnElement[bool]:
    # Ids begin with the time of acceptance, so the primary key finds the old ones without an index of their own.
    return and_(
        SessionRequest.id < new_request_id(moment)[:16],
        SessionRequest.ended_at < moment,
        # A callback that is being sent again would vanish with it.
        ~callback_under_way(),
    )


def _erase_driver_tokens(session: Session, ended_before: datetime, limit: int) -> int:
    readable = session.scalars(
        select(SessionRequest.id)
        .where(
            SessionRequest.token_sealed.is_not(None),
            SessionRequest.ended_at < ended_before,
            # A callback that is being sent again still needs it.
            ~callback_under_way(),
        )
        .limit(limit)
    ).all()
    if readable:
        session.execute(update(SessionRequest).where(SessionRequest.id.in_(readable)).values(token_sealed=None))
    return len(readable)


def _purge_idempotency_keys(session: Session, created_before: datetime, limit: int) -> int:
    old = session.execute(
        select(IdempotencyKey.caller, IdempotencyKey.key).where(IdempotencyKey.created_at < created_before).limit(limit)
    ).all()
    if old:
        both = tuple_(IdempotencyKey.caller, IdempotencyKey.key)
        session.execute(delete(IdempotencyKey).where(both.in_([tuple(row) for row in old])))
    return len(old)
