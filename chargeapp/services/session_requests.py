"""Accepting a charging session request: stored, queued and acknowledged in one transaction."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from chargeapp.domain.charging_session import Command, Event, State, new_request_id
from chargeapp.errors import RequestRefused, TemporaryFailure
from chargeapp.storage import outbox, tallies, timeline
from chargeapp.storage.models import ChargingSessionRequestOutbox, IdempotencyKey, SessionRequest

IDEMPOTENCY_HOURS = 24


class QueueFull(TemporaryFailure):
    """Too many requests are waiting for a decision; try again in a few seconds."""


class IdempotencyKeyReused(RequestRefused):
    """This Idempotency-Key was already used with another body."""


@dataclass(frozen=True)
class NewRequest:
    """What the caller asked, validated; the driver token only sealed, hashed and masked."""

    caller: str
    station_id: str
    token_sealed: bytes
    token_hash: str
    token_masked: str
    callback_url: str
    destination: str
    ttl_seconds: int
    decide_within_seconds: float
    idempotency_key: str | None = None
    body_hash: str = ""


@dataclass(frozen=True)
class Acknowledgement:
    request_id: str
    accepted_at: datetime
    replayed: bool = False


def request_charging_session(
    session: Session, new: NewRequest, *, queue_max_size: int, now: datetime
) -> Acknowledgement:
    """Raises QueueFull with nothing stored, and IdempotencyKeyReused for a key with another body."""
    if new.idempotency_key is not None:
        earlier = session.get(IdempotencyKey, (new.caller, new.idempotency_key))
        if earlier is not None and earlier.created_at > now - timedelta(hours=IDEMPOTENCY_HOURS):
            if earlier.body_hash != new.body_hash:
                raise IdempotencyKeyReused("This Idempotency-Key was already used with another body.")
            return Acknowledgement(earlier.request_id, earlier.created_at, replayed=True)
        if earlier is not None:
            session.delete(earlier)
            session.flush()
    if _queue_is_full(session, queue_max_size):
        raise QueueFull
    request_id = new_request_id(now)
    session.execute(
        insert(SessionRequest).values(
            id=request_id,
            caller=new.caller,
            station_id=new.station_id,
            token_sealed=new.token_sealed,
            token_hash=new.token_hash,
            token_masked=new.token_masked,
            callback_url=new.callback_url,
            destination=new.destination,
            state=State.ACCEPTED,
            accepted_at=now,
            decide_by=now + timedelta(seconds=new.decide_within_seconds),
            expires_at=now + timedelta(seconds=new.ttl_seconds),
            callback_attempts=0,
        )
    )
    draft = outbox.Draft(request_id, Command.START_CHARGING_SESSION_REQUEST, {"request_id": request_id}, now)
    outbox.put(session, ChargingSessionRequestOutbox, [draft], now)
    timeline.append(session, [timeline.Fact(request_id, Event.REQUEST_ACCEPTED)], now)
    if new.idempotency_key is not None:
        session.execute(
            insert(IdempotencyKey).values(
                caller=new.caller,
                key=new.idempotency_key,
                body_hash=new.body_hash,
                request_id=request_id,
                created_at=now,
            )
        )
    tallies.add(session, {"requests": (1, 0)}, now)
    return Acknowledgement(request_id, now)


def _queue_is_full(session: Session, queue_max_size: int) -> bool:
    undecided = select(SessionRequest.id).where(SessionRequest.decided_at.is_(None))
    return session.execute(undecided.offset(queue_max_size - 1).limit(1)).first() is not None
